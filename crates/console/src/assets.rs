//! Style, script and icon: small files that are part of the program, so that nothing has to be
//! built or fetched from elsewhere.

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asset {
    /// For the header.
    pub content_type: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The file of this name.
#[must_use]
pub fn asset(name: &str) -> Option<Asset> {
    let (content_type, text) = match name {
        "style.css" => ("text/css; charset=utf-8", include_str!("../assets/style.css")),
        "console.js" => ("text/javascript; charset=utf-8", include_str!("../assets/console.js")),
        "icon.svg" => ("image/svg+xml", include_str!("../assets/icon.svg")),
        _ => return None,
    };
    Some(Asset { content_type, text })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Colours by name, of the light and of the dark style.
    fn styles() -> Vec<BTreeMap<String, u32>> {
        let css = asset("style.css").unwrap().text;
        let blocks = css.split(":root {").skip(1);
        let blocks = blocks.map(|block| {
            let lines = block.split('}').next().unwrap_or_default().lines();
            let colours = lines.filter_map(|line| {
                let (name, value) = line.trim().strip_prefix("--")?.split_once(": #")?;
                Some((name.to_owned(), u32::from_str_radix(value.trim_end_matches(';'), 16).ok()?))
            });
            colours.collect()
        });
        blocks.collect()
    }

    /// Relative luminance as the guidelines for accessible content define it.
    fn luminance(colour: u32) -> f64 {
        let part = |shift: u32| {
            let share = f64::from((colour >> shift) & 0xff) / 255.0;
            if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
    }

    #[test]
    fn everything_that_is_written_can_be_read_by_day_and_by_night() {
        let styles = styles();
        assert_eq!(styles.len(), 2, "light and dark");
        for colours in styles {
            let mut pairs = vec![("on-accent", "accent"), ("bad", "card"), ("link", "off-back")];
            for back in ["page", "card", "off-back"] {
                pairs.extend([("text", back), ("dim", back), ("link", back)]);
            }
            let tones = [("good", "good-back"), ("busy", "busy-back"), ("off", "off-back")];
            pairs.extend(tones);
            pairs.extend([("warn", "warn-back"), ("bad", "bad-back")]);
            for (front, back) in pairs {
                let (one, other) = (luminance(colours[front]), luminance(colours[back]));
                let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                assert!(contrast >= 4.5, "{front} on {back}: {contrast:.2}");
            }
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        for name in ["style.css", "console.js", "icon.svg"] {
            let text = asset(name).unwrap().text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http") && !text.contains("@import"), "{name}");
        }
        assert_eq!(asset("../Cargo.toml"), None);
    }
}
