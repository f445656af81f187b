use super::canvas::{Align, Shape, text_width};
use super::*;
use crate::protocols::{
    base_to_novel, class_incremental, cross_dataset, few_shot, multi_task, task_incremental,
    test_time,
};
use crate::record::TestSet;
use crate::show::summary::sample;
use crate::store::Prediction;

/// No predictions were kept.
fn none(_: &str, _: &str, _: TestSet) -> Result<Option<Vec<Prediction>>, StoreError> {
    Ok(None)
}

/// Left, top, right, bottom of a text.
fn text_box(shape: &Shape) -> Option<(f64, f64, f64, f64)> {
    let Shape::Text {
        text,
        at: (x, y),
        size,
        align,
        is_bold,
        is_upright,
        ..
    } = shape
    else {
        return None;
    };
    let width = text_width(text, *size, *is_bold);
    let start = match align {
        Align::Start => 0.0,
        Align::Middle => -width / 2.0,
        Align::End => -width,
    };
    let (up, down) = (0.76 * size, 0.24 * size);
    Some(if *is_upright {
        (x - up, y - start - width, x + down, y - start)
    } else {
        (x + start, y - up, x + start + width, y + down)
    })
}

fn every_kind(methods: &[&str], datasets: &[&str], size: Size) -> Vec<Drawn> {
    let mut all = Vec::new();
    for protocol in [
        &base_to_novel::PROTOCOL,
        &few_shot::PROTOCOL,
        &cross_dataset::PROTOCOL,
        &test_time::PROTOCOL,
        &multi_task::PROTOCOL,
        &class_incremental::PROTOCOL,
        &task_incremental::PROTOCOL,
    ] {
        for shots in [&[16][..], &[1, 4, 16], &[1, 2, 4, 8, 16]] {
            let loaded = sample::sweep(protocol, methods, datasets, shots);
            all.extend(charts(&Summary::new(&loaded), &none, size));
        }
    }
    all
}

#[test]
fn no_text_leaves_its_chart_or_touches_another() {
    for size in [Size::Screen, Size::Paper] {
        for (methods, datasets) in [
            (&sample::METHODS[..], &sample::DATASETS[..]),
            (&sample::METHODS[..2], &sample::DATASETS[..1]),
            (
                &["zero-shot", "a-method-with-a-very-long-label-indeed-m4"],
                &["a-dataset-with-a-very-long-name", "dtd"],
            ),
        ] {
            for chart in every_kind(methods, datasets, size) {
                let boxes: Vec<_> = chart.drawing.shapes.iter().filter_map(text_box).collect();
                assert!(boxes.len() > 5, "{} has hardly any text", chart.slug);
                for (i, a) in boxes.iter().enumerate() {
                    let inside = a.0 >= 0.0
                        && a.1 >= 0.0
                        && a.2 <= chart.drawing.width
                        && a.3 <= chart.drawing.height;
                    assert!(
                        inside,
                        "{}, {methods:?}: text {i} at {a:?} leaves the chart",
                        chart.slug
                    );
                    for b in &boxes[..i] {
                        let apart = a.2 <= b.0 || b.2 <= a.0 || a.3 <= b.1 || b.3 <= a.1;
                        assert!(apart, "{}, {methods:?}: {a:?} touches {b:?}", chart.slug);
                    }
                }
            }
        }
    }
}

#[test]
fn no_mark_leaves_its_chart() {
    for chart in every_kind(&sample::METHODS, &sample::DATASETS, Size::Screen) {
        for shape in &chart.drawing.shapes {
            let (Shape::Line { points, .. } | Shape::Polygon { points, .. }) = shape else {
                continue;
            };
            for &(x, y) in points {
                assert!(x.is_finite() && y.is_finite(), "{}: {shape:?}", chart.slug);
                let inside = (0.0..=chart.drawing.width).contains(&x)
                    && (0.0..=chart.drawing.height).contains(&y);
                assert!(inside, "{}: {shape:?}", chart.slug);
            }
        }
    }
}

#[test]
fn a_method_has_one_colour_in_every_chart() {
    let wanted = (0x00, 0x72, 0xB2);
    for chart in every_kind(&["zero-shot", "coop"], &["dtd", "eurosat"], Size::Screen) {
        let has = chart.drawing.shapes.iter().any(|shape| match shape {
            Shape::Line { ink, .. } | Shape::Polygon { ink, .. } => ink.0 == wanted,
            Shape::Text { .. } => false,
        });
        // Every chart with a trained method has CoOp's blue in it.
        assert!(has, "{} lacks CoOp's blue", chart.slug);
    }
}

#[test]
fn gaps_break_curves_and_are_not_drawn() {
    let mut loaded = sample::sweep(&few_shot::PROTOCOL, &["coop"], &["dtd"], &[1, 4, 16]);
    let lines = |loaded: &Loaded| {
        let charts = charts(&Summary::new(loaded), &none, Size::Screen);
        let shapes = charts[0].drawing.shapes.clone();
        shapes.iter().filter(|s| matches!(s, Shape::Line { points, width, .. } if points.len() == 3 && *width == 1.6)).count()
    };
    assert_eq!(lines(&loaded), 1);
    loaded.records.retain(|r| (r.shots, r.seed) != (4, 2));
    assert_eq!(lines(&loaded), 0);
}

#[test]
fn files_are_svg_and_png_and_the_same_every_time() {
    let loaded = sample::sweep(
        &base_to_novel::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd", "eurosat"],
        &[1, 16],
    );
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = render_all(&loaded, &none, one.path(), Size::Screen).unwrap();
    assert_eq!(files.len(), 12);
    for (a, b) in files
        .iter()
        .zip(render_all(&loaded, &none, two.path(), Size::Screen).unwrap())
    {
        let bytes = std::fs::read(a).unwrap();
        assert_eq!(bytes, std::fs::read(b).unwrap());
        match a.extension().unwrap().to_str().unwrap() {
            "svg" => assert!(bytes.starts_with(b"<svg ") && bytes.ends_with(b"</svg>\n")),
            _ => assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 1920),
        }
    }
}

#[test]
fn an_empty_folder_has_no_chart() {
    assert!(charts(&Summary::new(&Loaded::default()), &none, Size::Screen).is_empty());
}

/// `PROMPTBED_LOOK=<folder>` keeps the charts of made-up records, to be looked at.
#[test]
fn charts_to_look_at() {
    let Some(folder) = std::env::var_os("PROMPTBED_LOOK") else {
        return;
    };
    let folder = Path::new(&folder);
    for (name, methods, shots) in [
        ("two", &sample::METHODS[..2], &[1, 4, 16][..]),
        ("ten", &sample::METHODS[..], &[1, 2, 4, 8, 16]),
        ("ten-one-shot-count", &sample::METHODS[..], &[16]),
    ] {
        for protocol in [
            &base_to_novel::PROTOCOL,
            &few_shot::PROTOCOL,
            &cross_dataset::PROTOCOL,
            &multi_task::PROTOCOL,
            &class_incremental::PROTOCOL,
            &task_incremental::PROTOCOL,
        ] {
            let loaded = sample::sweep(protocol, methods, &sample::DATASETS, shots);
            render_all(&loaded, &none, &folder.join(name), Size::Screen).unwrap();
            render_all(&loaded, &none, &folder.join(name), Size::Paper).unwrap();
        }
    }
}
