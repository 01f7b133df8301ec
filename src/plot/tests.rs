//! Whole figures, from numbers to files.

use super::*;

fn figure() -> Figure {
    let lines = Lines::new("loss", Axis::new("epoch").whole(), Axis::new("loss").log(true))
        .with(Series::new("train", vec![(1.0, 0.5), (2.0, 0.1), (3.0, 0.03)]))
        .with(Series::new("val", vec![(1.0, 0.4), (2.0, 0.2), (3.0, 0.1)]).dashed());
    let mut bars = Bars::new("probabilities", "p");
    bars.bars.push(Bar { name: "a".into(), value: 0.75, text: "75%".into(), colour: colour::SERIES[0] });
    let mut grid = Grid::new("digits");
    (0..5).for_each(|i| grid.push(Picture::planes(1, 28, 28, &[i * 50; 784]), format!("caption {i}")));
    let names: Vec<String> = ["a", "b"].map(String::from).to_vec();
    let heat = Heat {
        title: "heat".into(),
        labels: ["prediction", "truth"].map(String::from),
        names: [names.clone(), names],
        shades: vec![vec![1.0, 0.1], vec![0.0, f64::NAN]],
        texts: vec![vec!["10".into(), "1".into()], vec!["0".into(), "?".into()]],
        map: Map::Blues,
        bar: Some(("share".into(), vec![(0.0, "0%".into()), (1.0, "100%".into())])),
    };
    Figure::new("four panes").with(lines).with(bars).with(grid).with(heat).columns(2)
}

#[test]
fn files_are_what_their_names_say() {
    let dir = tempfile::tempdir().unwrap();
    let (fonts, figure) = (Fonts::default(), figure());
    let [png, svg] = ["a.png", "sub/dir/a.SVG"].map(|name| dir.path().join(name));
    figure.save(&png, &fonts).unwrap();
    figure.save(&svg, &fonts).unwrap();
    let drawing = figure.draw(&fonts);
    let picture = image::open(&png).unwrap();
    assert_eq!((picture.width(), picture.height()), ((2.0 * drawing.width).round() as u32, (2.0 * drawing.height).round() as u32));
    let text = std::fs::read_to_string(&svg).unwrap();
    for part in ["four panes", ">loss<", ">val<", ">75%<", ">caption 4<", ">truth<", "image/png;base64"] {
        assert!(text.contains(part), "{part}");
    }
    for name in ["a.jpg", "a", ".png"] {
        let error = figure.save(&dir.path().join(name), &fonts).unwrap_err();
        assert!(error.message.contains(name) && error.hint.unwrap().contains(".svg"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    // Twice the same figure, twice the same bytes.
    let before = std::fs::read(&png).unwrap();
    figure.save(&png, &fonts).unwrap();
    assert_eq!(before, std::fs::read(&png).unwrap());
    figure.save_with(&png, &fonts, 50.0).unwrap();
    assert_eq!(image::open(&png).unwrap().width(), (drawing.width / 2.0).round() as u32);
}

#[test]
fn everything_is_on_the_paper() {
    let fonts = Fonts::default();
    let d = figure().draw(&fonts);
    let inside = |x: f32, y: f32| (0.0..=d.width).contains(&x) && (0.0..=d.height).contains(&y);
    for shape in &d.shapes {
        let fine = match shape {
            drawing::Shape::Rect { area, .. } | drawing::Shape::Picture { area, .. } => {
                inside(area.x, area.y) && inside(area.x + area.w, area.y + area.h)
            }
            drawing::Shape::Line { points, .. } => points.iter().all(|p| inside(p[0], p[1])),
            drawing::Shape::Dot { at, .. } => inside(at[0], at[1]),
            drawing::Shape::Text(t) => inside(t.at[0], t.at[1]),
        };
        assert!(fine, "{shape:?} on {}x{}", d.width, d.height);
    }
}

#[test]
fn an_empty_figure_is_a_figure() {
    let fonts = Fonts::default();
    for figure in [Figure::new(""), Figure::new("title"), Figure::new("").with(Grid::new("")).with(Bars::new("", ""))] {
        raster::pixels(&figure.draw(&fonts), &fonts, 1.0).unwrap();
    }
}
