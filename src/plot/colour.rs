//! Colours: the few that figures are drawn with, and maps from numbers to colours.
//!
//! The maps are matplotlib's and ColorBrewer's, given by a few stops between which is interpolated. Read next: `picture.rs`.

/// Red, green and blue, 0 to 255.
pub type Rgb = [u8; 3];

/// Text, frames.
pub const INK: Rgb = [38, 38, 38];
/// What matters less: ticks' numbers, captions.
pub const SOFT: Rgb = [95, 95, 95];
/// Dashed lines behind the data.
pub const GRID: Rgb = [217, 217, 217];
/// The paper.
pub const PAPER: Rgb = [255, 255, 255];
/// What was right.
pub const RIGHT: Rgb = [44, 130, 60];
/// What was wrong.
pub const WRONG: Rgb = [200, 35, 40];

/// The colours of series, one after the other (matplotlib's "tab10").
pub const SERIES: [Rgb; 10] = [
    [31, 119, 180],
    [255, 127, 14],
    [44, 160, 44],
    [214, 39, 40],
    [148, 103, 189],
    [140, 86, 75],
    [227, 119, 194],
    [127, 127, 127],
    [188, 189, 34],
    [23, 190, 207],
];

/// A map from 0..1 to colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// Black to white.
    Grey,
    /// Almost white to dark blue: counts.
    Blues,
    /// Dark violet over green to yellow: activations.
    Viridis,
    /// Black over red and yellow to white: how much something matters.
    Hot,
    /// Blue over white to red: signed values, with zero at 0.5.
    Signed,
}

impl Map {
    fn stops(self) -> &'static [Rgb] {
        match self {
            Map::Grey => &[[0, 0, 0], [255, 255, 255]],
            Map::Blues => &[
                [247, 251, 255],
                [222, 235, 247],
                [198, 219, 239],
                [158, 202, 225],
                [107, 174, 214],
                [66, 146, 198],
                [33, 113, 181],
                [8, 81, 156],
                [8, 48, 107],
            ],
            Map::Viridis => &[
                [68, 1, 84],
                [72, 40, 120],
                [62, 74, 137],
                [49, 104, 142],
                [38, 130, 142],
                [31, 158, 137],
                [53, 183, 121],
                [109, 205, 89],
                [180, 222, 44],
                [253, 231, 37],
            ],
            Map::Hot => &[[0, 0, 0], [120, 0, 0], [230, 20, 0], [255, 150, 0], [255, 240, 60], [255, 255, 255]],
            Map::Signed => {
                &[[33, 102, 172], [103, 169, 207], [209, 229, 240], [247, 247, 247], [253, 219, 199], [239, 138, 98], [178, 24, 43]]
            }
        }
    }

    /// The colour of `t`; what lies outside 0..1 gets the nearest end, what is no number a middle grey.
    pub fn at(self, t: f64) -> Rgb {
        if t.is_nan() {
            return [128; 3];
        }
        let stops = self.stops();
        let place = t.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
        let i = (place as usize).min(stops.len() - 2);
        let part = place - i as f64;
        std::array::from_fn(|c| (f64::from(stops[i][c]) * (1.0 - part) + f64::from(stops[i + 1][c]) * part).round() as u8)
    }
}

/// Black or white: what can be read on this colour.
pub fn readable_on([r, g, b]: Rgb) -> Rgb {
    // Rec. 601's brightness.
    let bright = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    if bright > 140.0 { INK } else { PAPER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_end_at_their_stops() {
        for map in [Map::Grey, Map::Blues, Map::Viridis, Map::Hot, Map::Signed] {
            let stops = map.stops();
            assert_eq!((map.at(0.0), map.at(1.0)), (stops[0], stops[stops.len() - 1]), "{map:?}");
            assert_eq!((map.at(-3.0), map.at(f64::INFINITY)), (stops[0], stops[stops.len() - 1]), "{map:?}");
            assert_eq!(map.at(f64::NAN), [128; 3]);
        }
        assert_eq!(Map::Grey.at(0.5), [128; 3]);
        assert_eq!(Map::Signed.at(0.5), [247; 3]);
    }

    #[test]
    fn text_can_be_read() {
        assert_eq!(readable_on(Map::Blues.at(0.0)), INK);
        assert_eq!(readable_on(Map::Blues.at(1.0)), PAPER);
    }
}
