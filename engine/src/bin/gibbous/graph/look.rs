//! How each kind of event looks: shape and line tell it without colour, colour without shape.

use crate::stored::Kind;

/// The look of a kind of event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The class in the picture's style sheet.
    pub(super) class: &'static str,
    pub(super) shape: Shape,
    /// Graphviz's name of a shape that is like it, with what else it needs.
    pub(super) dot: &'static str,
    /// Graphviz's styles.
    pub(super) dot_style: &'static str,
    /// The colours of area, line and text by day, and by night.
    pub(super) day: Colours,
    pub(super) night: Colours,
    /// What it says, for the legend.
    pub(super) says: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Colours {
    pub(super) area: &'static str,
    pub(super) line: &'static str,
}

/// The outline of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    RoundedBox,
    Hexagon,
    /// With a second line inside.
    Octagon,
    /// With bars at its sides.
    BarredBox,
    Ellipse,
    Parallelogram,
    Pill,
}

fn colours(area: &'static str, line: &'static str) -> Colours {
    Colours { area, line }
}

pub(super) fn look(kind: Kind) -> Look {
    match kind {
        Kind::Full => Look {
            class: "full",
            shape: Shape::RoundedBox,
            dot: "box",
            dot_style: "rounded,filled",
            day: colours("#e2f3e5", "#1f7a3a"),
            night: colours("#17341f", "#63c982"),
            says: "accepted, with full state",
        },
        Kind::Partial => Look {
            class: "partial",
            shape: Shape::RoundedBox,
            dot: "box",
            dot_style: "rounded,filled,dashed",
            day: colours("#fff0cf", "#a15c00"),
            night: colours("#3d2c0b", "#f0b255"),
            says: "accepted, as far as partial state tells (dashed, too, where soft-failed or rejected)",
        },
        Kind::SoftFailed => Look {
            class: "soft-failed",
            shape: Shape::Hexagon,
            dot: "hexagon",
            dot_style: "filled",
            day: colours("#efe4fb", "#6f3fb5"),
            night: colours("#2c1f42", "#c09af2"),
            says: "failed check 6: the current state forbids it",
        },
        Kind::Rejected => Look {
            class: "rejected",
            shape: Shape::Octagon,
            dot: "octagon, peripheries=2",
            dot_style: "filled",
            day: colours("#fde3e0", "#b3261e"),
            night: colours("#431a17", "#f28b82"),
            says: "failed check 4 or 5",
        },
        Kind::History => Look {
            class: "history",
            shape: Shape::BarredBox,
            dot: "tab",
            dot_style: "filled",
            day: colours("#dcf1f4", "#0b6b78"),
            night: colours("#0d3137", "#5fc6d4"),
            says: "in the history before we came, or in a gap",
        },
        Kind::Outlier => Look {
            class: "outlier",
            shape: Shape::Ellipse,
            dot: "ellipse",
            dot_style: "filled",
            day: colours("#eceff3", "#5a6675"),
            night: colours("#252a31", "#a3afbf"),
            says: "known for the sake of others only",
        },
        Kind::Waiting => Look {
            class: "waiting",
            shape: Shape::Parallelogram,
            dot: "parallelogram",
            dot_style: "filled,dotted",
            day: colours("#fbf7c6", "#766500"),
            night: colours("#353104", "#d9c84a"),
            says: "without a verdict: something is missing",
        },
        Kind::Missing => Look {
            class: "missing",
            shape: Shape::Pill,
            dot: "oval",
            dot_style: "dotted",
            day: colours("none", "#767676"),
            night: colours("none", "#9a9a9a"),
            says: "named by others, and not stored",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_without_colour() {
        for (nth, kind) in Kind::ALL.into_iter().enumerate() {
            for other in &Kind::ALL[..nth] {
                let (one, other_look) = (look(kind), look(*other));
                // The picture's lines: dashed, dotted, or whole.
                let line = |kind| match kind {
                    Kind::Partial => "dashed",
                    Kind::Waiting | Kind::Missing => "dotted",
                    _ => "whole",
                };
                assert_ne!((one.shape, line(kind)), (other_look.shape, line(*other)));
                assert_ne!((one.dot, one.dot_style), (other_look.dot, other_look.dot_style));
                assert_ne!((one.day.line, one.night.line), (other_look.day.line, other_look.night.line));
            }
        }
    }
}
