// Looks again by itself: fetches the page and takes its content over. Without this script a page is
// read by reloading it.
"use strict";
(() => {
  const EVERY = 3000;
  const live = document.getElementById("live");
  if (document.body.dataset.live !== "yes" || !live) return;
  let failures = 0;

  const isChanged = (field) => {
    if (field.matches("select")) {
      const marked = [...field.options].findLastIndex((option) => option.defaultSelected);
      return field.selectedIndex !== Math.max(marked, 0);
    }
    if (field.matches("[type=checkbox], [type=radio]")) return field.checked !== field.defaultChecked;
    return field.value !== field.defaultValue;
  };

  // What somebody chose or wrote stays, also once another element has the focus.
  const isFillingIn = () => {
    const active = document.activeElement;
    if (active !== null && active.matches("input, select, textarea")) return true;
    return [...document.querySelectorAll("#main :is(input, select, textarea)")].some(isChanged);
  };

  // What a reader has opened, scrolled or reached stays so.
  const takeOver = (fresh) => {
    const main = document.getElementById("main");
    const open = [...main.querySelectorAll("details[id][open]")].map((one) => one.id);
    const scrolled = [...main.querySelectorAll(".scroll[id]")].map((one) => [one.id, one.scrollLeft]);
    const focus = main.contains(document.activeElement) ? document.activeElement : null;
    const at = focus === null ? null : [focus.id, focus.getAttribute("href"), focus.textContent];
    main.replaceChildren(...fresh.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, left] of scrolled) {
      const one = document.getElementById(id);
      if (one !== null) one.scrollLeft = left;
    }
    if (at === null) return;
    const same = (one) =>
      (at[0] !== "" && one.id === at[0]) ||
      (one.getAttribute("href") === at[1] && one.textContent === at[2]);
    [...main.querySelectorAll("a, button, summary, [tabindex]")].find(same)?.focus({ preventScroll: true });
  };

  const say = (text) => {
    if (live.textContent !== text) live.textContent = text;
  };

  // A notice is served once; whoever reads slowly keeps it until the page is left.
  const keepNotice = (fresh) => {
    const notice = document.querySelector("#main > .notice");
    if (notice !== null && fresh.querySelector(".notice") === null) fresh.prepend(notice.cloneNode(true));
  };

  const look = async () => {
    if (document.hidden) return;
    if (isFillingIn()) {
      say("‖ waits while a form is filled in");
      return;
    }
    const answer = await fetch(location.href, {
      credentials: "same-origin",
      signal: AbortSignal.timeout(10000),
    });
    if (answer.redirected || answer.status === 401) {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    const main = document.getElementById("main");
    if (fresh !== null) keepNotice(fresh);
    if (fresh !== null && fresh.innerHTML !== main.innerHTML && !isFillingIn()) takeOver(fresh);
    failures = 0;
    document.body.classList.remove("stale");
    say("● live, looks every 3 s");
  };

  const again = async () => {
    try {
      await look();
    } catch {
      failures += 1;
      document.body.classList.add("stale");
      say(`✗ no answer (${failures}); what you see is old`);
    }
    setTimeout(again, EVERY * Math.min(1 + failures, 5));
  };
  say("● live, looks every 3 s");
  setTimeout(again, EVERY);
})();
