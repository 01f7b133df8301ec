//! Axes: where a number stands on paper, at which numbers a tick stands, and how it is written.
//!
//! Read next: `lines.rs`.

/// Numbers beyond this are as good as infinite in a figure.
pub const LARGEST: f64 = 1e30;

/// What an axis shows.
#[derive(Debug, Clone, Default)]
pub struct Axis {
    /// What is written beside it.
    pub label: String,
    /// Equal steps are equal factors; what is not positive is left out.
    pub log: bool,
    /// Ticks stand at whole numbers only.
    pub whole: bool,
}

impl Axis {
    /// A linear axis.
    pub fn new(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), ..Axis::default() }
    }

    /// The axis for whole numbers.
    pub fn whole(self) -> Axis {
        Axis { whole: true, ..self }
    }

    /// The axis with equal factors as equal steps, if so chosen.
    pub fn log(self, log: bool) -> Axis {
        Axis { log, ..self }
    }

    /// Can the axis show the number?
    pub fn shows(&self, x: f64) -> bool {
        x.is_finite() && x.abs() <= LARGEST && (!self.log || x >= 1.0 / LARGEST)
    }

    /// A range for these numbers, with `margin` (a share of the range) on both sides.
    pub fn fit(&self, numbers: impl Iterator<Item = f64>, margin: f64) -> Range {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for x in numbers.filter(|&x| self.shows(x)) {
            (low, high) = (low.min(x), high.max(x));
        }
        if low > high {
            (low, high) = if self.log { (0.1, 1.0) } else { (0.0, 1.0) };
        }
        let (from, to) = (self.place(low), self.place(high));
        // One number only, or numbers so close that ticks between them could not be told apart.
        let least = if self.log { 0.1 } else { (from.abs().max(to.abs()) * 1e-9).max(1e-30) };
        let span = to - from;
        let margin = match span < least {
            true if self.log || self.whole => (from.abs() * 1e-6).max(0.5),
            true => (from.abs() * 0.1).max(if from == 0.0 { 1.0 } else { 0.0 }),
            false => margin * span,
        };
        Range { from: from - margin, to: to + margin, log: self.log, whole: self.whole }
    }

    fn place(&self, x: f64) -> f64 {
        if self.log { x.log10() } else { x }
    }
}

/// The part of an axis that is on paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Its first number, or its logarithm to base ten.
    pub from: f64,
    /// Its last.
    pub to: f64,
    log: bool,
    whole: bool,
}

impl Range {
    /// Where a number stands, 0 to 1.
    pub fn place(&self, x: f64) -> f64 {
        ((if self.log { x.log10() } else { x }) - self.from) / (self.to - self.from)
    }

    /// At most about `most` ticks: the numbers and how they are written.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let most = most.max(2);
        if self.log { self.log_ticks(most) } else { self.linear_ticks(most) }
    }

    fn linear_ticks(&self, most: usize) -> Vec<(f64, String)> {
        let rough = (self.to - self.from) / most as f64;
        let ten = 10f64.powf(rough.log10().floor());
        // A few ticks more are better than half as many.
        let fits = |step: &f64| *step >= 0.9 * rough && (!self.whole || step.fract() == 0.0);
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|n| n * ten).find(fits).unwrap_or(if self.whole { 1.0 } else { rough });
        let (first, last) = ((self.from / step - 1e-6).ceil(), (self.to / step + 1e-6).floor());
        // A whole axis between two whole numbers has none.
        let count = (last - first).clamp(-1.0, 1e4) as i64;
        let numbers: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).map(|x| if x == 0.0 { 0.0 } else { x }).collect();
        let largest = numbers.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let exponent = if largest >= 1e6 || largest > 0.0 && largest < 1e-3 { largest.log10().floor() as i32 } else { 0 };
        // As many decimals as the step needs, no more.
        let unit = step / 10f64.powi(exponent);
        let decimals = (0..10).find(|&d| ((unit * 10f64.powi(d)).round() - unit * 10f64.powi(d)).abs() < 1e-6 * 10f64.powi(d) * unit);
        let decimals = decimals.unwrap_or(10) as usize;
        let write = |x: f64| match exponent {
            0 => format!("{x:.decimals$}").replace('-', "−"),
            _ if x == 0.0 => "0".into(),
            e => format!("{:.decimals$}·{}", x / 10f64.powi(e), ten_to(e)).replace('-', "−"),
        };
        numbers.into_iter().map(|x| (x, write(x))).collect()
    }

    /// Powers of ten; with less than two of them, their doubles and fivefolds too.
    fn log_ticks(&self, most: usize) -> Vec<(f64, String)> {
        let (first, last) = (self.from.ceil() as i32, self.to.floor() as i32);
        let inside = |x: f64| (-1e-9..=1.0 + 1e-9).contains(&self.place(x));
        if last - first >= 1 {
            let every = (last - first) as usize / most + 1;
            return (first..=last).step_by(every).map(|e| (10f64.powi(e), power(e))).collect();
        }
        let all = |factors: &[f64]| -> Vec<(f64, String)> {
            let decades = self.from.floor() as i32..=self.to.ceil() as i32;
            let numbers = decades.flat_map(|e| factors.iter().map(move |f| (*f, e)));
            let shown = numbers.filter(|(f, e)| inside(f * 10f64.powi(*e)));
            shown.map(|(f, e)| (f * 10f64.powi(e), factor(f, e))).collect()
        };
        let coarse = all(&[1.0, 2.0, 5.0]);
        if coarse.len() >= 2 { coarse } else { all(&[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]) }
    }
}

fn power(e: i32) -> String {
    if (-2..=3).contains(&e) { factor(1.0, e) } else { ten_to(e) }
}

fn factor(f: f64, e: i32) -> String {
    match e {
        -3..=3 => {
            let decimals = (-e).max(0) as usize + usize::from(f.fract() != 0.0 && e < 1);
            format!("{:.decimals$}", f * 10f64.powi(e))
        }
        e if f == 1.0 => ten_to(e),
        e => format!("{f}·{}", ten_to(e)),
    }
}

/// 10⁻⁴
fn ten_to(e: i32) -> String {
    let digit = |c: char| c.to_digit(10).map_or('⁻', |d| ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][d as usize]);
    "10".chars().chain(e.to_string().chars().map(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(axis: &Axis, numbers: &[f64], margin: f64, most: usize) -> Vec<String> {
        axis.fit(numbers.iter().copied(), margin).ticks(most).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let linear = Axis::new("");
        assert_eq!(written(&linear, &[0.0, 1.0], 0.0, 5), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(written(&linear, &[0.0, 100.0], 0.0, 4), ["0", "25", "50", "75", "100"]);
        assert_eq!(written(&linear, &[97.1, 99.3], 0.0, 5), ["97.5", "98.0", "98.5", "99.0"]);
        assert_eq!(written(&linear, &[-2.0, 2.0], 0.0, 4), ["−2", "−1", "0", "1", "2"]);
        assert_eq!(written(&linear, &[0.0, 5e-5], 0.0, 5), ["0", "1·10⁻⁵", "2·10⁻⁵", "3·10⁻⁵", "4·10⁻⁵", "5·10⁻⁵"]);
        assert_eq!(written(&linear, &[0.0, 4e6], 0.0, 2), ["0", "2·10⁶", "4·10⁶"]);
        assert_eq!(written(&linear, &[0.0, 469.0 * 5.0], 0.0, 5), ["0", "500", "1000", "1500", "2000"]);
    }

    #[test]
    fn epochs_are_whole() {
        let epochs = Axis::new("").whole();
        assert_eq!(written(&epochs, &[1.0, 2.0], 0.02, 10), ["1", "2"]);
        assert_eq!(written(&epochs, &[1.0], 0.02, 10), ["1"]);
        assert_eq!(written(&epochs, &[1.0, 5.0], 0.02, 10), ["1", "2", "3", "4", "5"]);
        assert_eq!(written(&epochs, &[0.0, 30.0], 0.0, 12), ["0", "5", "10", "15", "20", "25", "30"]);
        assert!(epochs.fit([1.2, 1.8].into_iter(), 0.0).ticks(5).is_empty());
    }

    #[test]
    fn logarithms() {
        let log = Axis::new("").log(true);
        assert_eq!(written(&log, &[1e-5, 1.0], 0.0, 6), ["10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "1"]);
        assert_eq!(written(&log, &[0.03, 0.7], 0.0, 6), ["0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(written(&log, &[0.21, 0.29], 0.0, 6), ["0.25"]);
        assert!(!log.shows(0.0) && !log.shows(-1.0) && log.shows(1e-9));
        assert!((log.fit([0.01, 1.0].into_iter(), 0.0).place(0.1) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn one_number_or_none_has_a_range_too() {
        for axis in [Axis::new(""), Axis::new("").log(true), Axis::new("").whole()] {
            for numbers in [&[][..], &[3.0], &[0.0], &[f64::NAN, f64::INFINITY, 1e300], &[5.0, 5.0, 5.0]] {
                let range = axis.fit(numbers.iter().copied(), 0.05);
                assert!(range.to > range.from && range.from.is_finite() && range.to.is_finite(), "{axis:?} {numbers:?} {range:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_numbers_get_a_few_ticks_inside(numbers in prop::collection::vec(any::<f64>(), 0..6), log: bool, whole: bool, most in 2usize..20) {
            let range = Axis { log, whole, ..Axis::default() }.fit(numbers.into_iter(), 0.05);
            let ticks = range.ticks(most);
            prop_assert!(ticks.len() <= 4 * most + 12, "{} ticks in {range:?}", ticks.len());
            prop_assert!(ticks.iter().all(|(x, _)| (-0.01..=1.01).contains(&range.place(*x))), "{ticks:?} in {range:?}");
        }
    }
}
