//! Closed curves, and the outlines of the shapes, within a circle of radius 1 around the origin; y points down.

use crate::vocabulary::Shape;

/// A point, x and y.
pub(crate) type Point = [f32; 2];

/// One piece of a curve.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    Move(Point),
    Line(Point),
    Quad(Point, Point),
    Cubic(Point, Point, Point),
    Close,
}

/// Closed curves; what is inside an odd number of them is filled if `even_odd`, else what they wind around.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) even_odd: bool,
}

impl Outline {
    /// The outline through these corners.
    pub(crate) fn polygon(corners: &[Point]) -> Self {
        let mut pieces: Vec<Piece> = corners.iter().map(|&p| Piece::Line(p)).collect();
        if let Some(first) = pieces.first_mut() {
            *first = Piece::Move(corners[0]);
        }
        pieces.push(Piece::Close);
        Self { pieces, even_odd: false }
    }

    /// A rectangle of these edges.
    pub(crate) fn rectangle(left: f32, top: f32, right: f32, bottom: f32) -> Self {
        Self::polygon(&[[left, top], [right, top], [right, bottom], [left, bottom]])
    }

    /// A straight stroke with square ends.
    pub(crate) fn stroke(from: Point, to: Point, width: f32) -> Self {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = (dx * dx + dy * dy).sqrt().max(1e-6);
        let (nx, ny) = (-dy / length * width / 2.0, dx / length * width / 2.0);
        Self::polygon(&[
            [from[0] + nx, from[1] + ny],
            [to[0] + nx, to[1] + ny],
            [to[0] - nx, to[1] - ny],
            [from[0] - nx, from[1] - ny],
        ])
    }

    /// Every point through `map`.
    pub(crate) fn map(&self, map: impl Fn(Point) -> Point) -> Self {
        let piece = |piece: &Piece| match *piece {
            Piece::Move(a) => Piece::Move(map(a)),
            Piece::Line(a) => Piece::Line(map(a)),
            Piece::Quad(a, b) => Piece::Quad(map(a), map(b)),
            Piece::Cubic(a, b, c) => Piece::Cubic(map(a), map(b), map(c)),
            Piece::Close => Piece::Close,
        };
        Self { pieces: self.pieces.iter().map(piece).collect(), even_odd: self.even_odd }
    }

    /// Left, top, right and bottom of all points, those that steer a curve too.
    pub(crate) fn bounds(&self) -> [f32; 4] {
        let mut bounds = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        let mut with = |p: Point| {
            bounds = [bounds[0].min(p[0]), bounds[1].min(p[1]), bounds[2].max(p[0]), bounds[3].max(p[1])];
        };
        for piece in &self.pieces {
            match *piece {
                Piece::Move(a) | Piece::Line(a) => with(a),
                Piece::Quad(a, b) => [a, b].into_iter().for_each(&mut with),
                Piece::Cubic(a, b, c) => [a, b, c].into_iter().for_each(&mut with),
                Piece::Close => {}
            }
        }
        bounds
    }
}

/// A turn around the origin by twice the angle whose tangent is `half`: a rotation without sine and cosine, which
/// differ between machines in their last bit.
pub(crate) fn turn(point: Point, half: f32) -> Point {
    let norm = 1.0 + half * half;
    let (cos, sin) = ((1.0 - half * half) / norm, 2.0 * half / norm);
    [cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]]
}

/// Four cubics are a circle up to 0.03 % of its radius with this length of handles.
const HANDLE: f32 = 0.552_284_8;

fn circle(center: Point, radius: f32, pieces: &mut Vec<Piece>) {
    let at = |x: f32, y: f32| [center[0] + radius * x, center[1] + radius * y];
    pieces.push(Piece::Move(at(1.0, 0.0)));
    for (x, y) in [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)] {
        // From (x, y) a quarter turn on, to (-y, x).
        let (a, b) = (at(x - HANDLE * y, y + HANDLE * x), at(-y + HANDLE * x, x + HANDLE * y));
        pieces.push(Piece::Cubic(a, b, at(-y, x)));
    }
    pieces.push(Piece::Close);
}

// Sines and cosines of 18, 36 and 60 degrees.
const S18: f32 = 0.309_017;
const C18: f32 = 0.951_056_5;
const S36: f32 = 0.587_785_25;
const C36: f32 = 0.809_017;
const C60: f32 = 0.866_025_4;

/// The outline of a shape in the unit circle.
pub(crate) fn shape(shape: Shape) -> Outline {
    match shape {
        Shape::Circle => {
            let mut pieces = Vec::new();
            circle([0.0, 0.0], 0.9, &mut pieces);
            Outline { pieces, even_odd: false }
        }
        Shape::Square => Outline::rectangle(-0.7, -0.7, 0.7, 0.7),
        Shape::Triangle => Outline::polygon(&[[0.0, -0.92], [0.88, 0.64], [-0.88, 0.64]]),
        Shape::Diamond => Outline::polygon(&[[0.0, -1.0], [0.72, 0.0], [0.0, 1.0], [-0.72, 0.0]]),
        Shape::Hexagon => Outline::polygon(&[
            [0.92, 0.0],
            [0.46, 0.92 * C60],
            [-0.46, 0.92 * C60],
            [-0.92, 0.0],
            [-0.46, -0.92 * C60],
            [0.46, -0.92 * C60],
        ]),
        Shape::Star => star(),
        Shape::Cross => cross(),
        Shape::Heart => heart(),
        Shape::Ring => {
            let mut pieces = Vec::new();
            circle([0.0, 0.0], 0.95, &mut pieces);
            circle([0.0, 0.0], 0.52, &mut pieces);
            Outline { pieces, even_odd: true }
        }
        Shape::Crescent => crescent(),
    }
}

fn star() -> Outline {
    let tips = [[0.0, -1.0], [C18, -S18], [S36, C36], [-S36, C36], [-C18, -S18]];
    // Notches lie opposite to the tips.
    let notch = |tip: Point| [-0.42 * tip[0], -0.42 * tip[1]];
    let corners: Vec<Point> = (0..5).flat_map(|i| [tips[i], notch(tips[(i + 3) % 5])]).collect();
    Outline::polygon(&corners)
}

fn cross() -> Outline {
    const ARM: f32 = 0.3;
    const END: f32 = 0.92;
    Outline::polygon(&[
        [-ARM, -END],
        [ARM, -END],
        [ARM, -ARM],
        [END, -ARM],
        [END, ARM],
        [ARM, ARM],
        [ARM, END],
        [-ARM, END],
        [-ARM, ARM],
        [-END, ARM],
        [-END, -ARM],
        [-ARM, -ARM],
    ])
}

fn heart() -> Outline {
    let pieces = vec![
        Piece::Move([0.0, -0.45]),
        Piece::Cubic([0.15, -0.75], [0.42, -0.86], [0.56, -0.86]),
        Piece::Cubic([0.8, -0.86], [0.95, -0.65], [0.95, -0.4]),
        Piece::Cubic([0.95, 0.15], [0.4, 0.5], [0.0, 0.9]),
        Piece::Cubic([-0.4, 0.5], [-0.95, 0.15], [-0.95, -0.4]),
        Piece::Cubic([-0.95, -0.65], [-0.8, -0.86], [-0.56, -0.86]),
        Piece::Cubic([-0.42, -0.86], [-0.15, -0.75], [0.0, -0.45]),
        Piece::Close,
    ];
    Outline { pieces, even_odd: false }
}

/// A moon: the circle's left part, hollowed out from the right.
fn crescent() -> Outline {
    let pieces = vec![
        Piece::Move([0.42, -0.85]),
        Piece::Cubic([-0.1, -1.1], [-0.95, -0.75], [-0.95, 0.0]),
        Piece::Cubic([-0.95, 0.75], [-0.1, 1.1], [0.42, 0.85]),
        Piece::Cubic([-0.35, 0.65], [-0.35, -0.65], [0.42, -0.85]),
        Piece::Close,
    ];
    Outline { pieces, even_odd: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_the_unit_circle() {
        for name in Shape::ALL {
            let bounds = shape(name).bounds();
            assert!(bounds.iter().all(|b| b.abs() <= 1.1), "{name:?} {bounds:?}");
            for side in 0..2 {
                assert!(bounds[side + 2] - bounds[side] > 1.2, "{name:?} {bounds:?}");
            }
        }
    }

    #[test]
    fn a_turn_keeps_lengths() {
        let [x, y] = turn([3.0, 4.0], 0.3);
        assert!((x * x + y * y - 25.0).abs() < 1e-4);
        // tan 45° = 1: a quarter turn.
        let [x, y] = turn([1.0, 0.0], 1.0);
        assert!(x.abs() < 1e-6 && (y - 1.0).abs() < 1e-6);
    }
}
