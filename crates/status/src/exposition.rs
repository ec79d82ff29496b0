//! The text format of Prometheus: families with help and type, samples with labels, histograms.

use std::fmt::Write;

/// What a family of samples is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Gauge,
    Counter,
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// Labels of a sample, in the order in which they are written.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text under construction. Writing to a string cannot fail.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

impl Exposition {
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Begins a family; its samples must follow before the next one begins.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let _ = writeln!(self.text, "# HELP {name} {help}");
        let _ = writeln!(self.text, "# TYPE {name} {}", kind.name());
        Family { text: &mut self.text, name }
    }

    /// A family of one gauge without labels.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &str, value: f64) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }
}

/// The samples of one family.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    pub(crate) fn sample(&mut self, labels: Labels<'_>, value: f64) {
        self.write("", labels, None, value);
    }

    /// A histogram: upper bounds in rising order with the observations up to and including them
    /// that are above the bound before.
    pub(crate) fn histogram(
        &mut self,
        labels: Labels<'_>,
        buckets: &[(f64, u64)],
        over: u64,
        sum: f64,
    ) {
        let mut below = 0;
        for (bound, count) in buckets {
            below += count;
            self.write("_bucket", labels, Some(&number(*bound)), count_of(below));
        }
        let all = below + over;
        self.write("_bucket", labels, Some("+Inf"), count_of(all));
        self.write("_sum", labels, None, sum);
        self.write("_count", labels, None, count_of(all));
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: f64) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        let bound = bound.map(|bound| ("le", bound));
        let mut before = '{';
        for (name, label) in labels.iter().copied().chain(bound) {
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(label));
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", number(value));
    }
}

/// Counts beyond 2^53 lose their last digits, as they do in Prometheus.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn count_of(count: u64) -> f64 {
    count as f64
}

fn number(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { "NaN".into() }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_samples_and_histograms_have_the_published_form() {
        let mut text = Exposition::default();
        text.gauge("up", "Whether it runs.", 1.0);
        text.family("odd", Kind::Counter, "Labels.").sample(&[("a", "x\"\\\n"), ("b", "")], 0.5);
        let mut family = text.family("took", Kind::Histogram, "Times.");
        family.histogram(&[("s", "q")], &[(0.001, 2), (0.002, 0), (0.004, 3)], 1, 0.25);
        let expected = "# HELP up Whether it runs.\n# TYPE up gauge\nup 1\n\
            # HELP odd Labels.\n# TYPE odd counter\nodd{a=\"x\\\"\\\\\\n\",b=\"\"} 0.5\n\
            # HELP took Times.\n# TYPE took histogram\n\
            took_bucket{s=\"q\",le=\"0.001\"} 2\ntook_bucket{s=\"q\",le=\"0.002\"} 2\n\
            took_bucket{s=\"q\",le=\"0.004\"} 5\ntook_bucket{s=\"q\",le=\"+Inf\"} 6\n\
            took_sum{s=\"q\"} 0.25\ntook_count{s=\"q\"} 6\n";
        assert_eq!(text.into_text(), expected);
    }
}
