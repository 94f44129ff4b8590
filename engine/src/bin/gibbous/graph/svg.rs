//! The event graph as a picture: by day and by night, without a script and without anything from elsewhere.

use super::{
    layout::{Layout, Sizes, lay_out},
    look::{Colours, Look, Shape, look},
    read::{Graph, Node},
};
use crate::{
    plain::{Text, cut, xml},
    stored::Kind,
};

const SIZES: Sizes = Sizes { node: (212.0, 58.0), gap: (28.0, 34.0), bend: 18.0 };
const MARGIN: f64 = 28.0;
/// How many characters fit into a node's middle line, and into those above and below, which are shorter in an ellipse.
const MIDDLE_CHARS: usize = 28;
const OUTER_CHARS: usize = 25;
/// The heads: the room's ID, and how much of it is drawn.
const HEAD: f64 = 62.0;
/// A line of the legend, with a small node at its beginning.
const LEGEND: (f64, f64) = (74.0, 32.0);
/// How wide the lines of head and legend are.
const WIDTH_MIN: f64 = 660.0;

pub(super) fn draw(graph: &Graph) -> String {
    let depths: Vec<u64> = graph.nodes.iter().map(|node| node.depth).collect();
    let layout = lay_out(&depths, &graph.edges, SIZES);
    let legend_height = LEGEND.1 * (Kind::ALL.len() + 2) as f64;
    let width = f64::max(layout.size.0, WIDTH_MIN) + 2.0 * MARGIN;
    let top = HEAD + legend_height + MARGIN;
    let height = top + layout.size.1 + 2.0 * MARGIN;
    let room = xml(graph.room_id.as_str());
    let mut text = Text::default();
    text.line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">"
    ));
    text.line(format_args!("<title>The event graph of {room}</title>"));
    draw_style(&mut text);
    text.line(format_args!("<rect class=\"page\" width=\"100%\" height=\"100%\"/>"));
    text.line(format_args!("<text class=\"head\" x=\"{MARGIN}\" y=\"34\">{room}</text>"));
    text.line(format_args!(
        "<text class=\"say\" x=\"{MARGIN}\" y=\"54\">{}; an arrow leads to what an event follows, the latest is \
         below</text>",
        xml(&graph.extent())
    ));
    draw_legend(&mut text);
    let left = MARGIN + (f64::max(layout.size.0, WIDTH_MIN) - layout.size.0) / 2.0;
    text.line(format_args!("<g transform=\"translate({left:.1} {top:.1})\">"));
    for ((from, to), bends) in graph.edges.iter().zip(&layout.bends) {
        draw_edge(&mut text, &layout, (*from, *to), bends);
    }
    for (node, at) in graph.nodes.iter().zip(&layout.nodes) {
        draw_node(&mut text, node, *at);
    }
    text.line(format_args!("</g>\n</svg>"));
    text.into_string()
}

fn draw_style(text: &mut Text) {
    let day = ["#ffffff", "#1b1f24", "#555c66", "#8a919c"];
    let night = ["#15181c", "#e8eaed", "#a9b0ba", "#757d88"];
    text.line(format_args!("<style>"));
    text.line(format_args!(
        "text {{ font-family: system-ui, sans-serif; font-size: 11px; }} .head {{ font-size: 17px; font-weight: 600; }} \
         .say {{ font-size: 12px; }} .mid {{ text-anchor: middle; }} .type {{ font-size: 12px; font-weight: 600; }} \
         .node {{ stroke-width: 1.6; }} .rejected.node {{ stroke-width: 2.2; }} .dashed {{ stroke-dasharray: 7 4; }} \
         .waiting.node, .missing.node {{ stroke-dasharray: 2 3; }} .edge {{ fill: none; stroke-width: 1.3; }} \
         .centre {{ fill: none; stroke-width: 3; }}"
    ));
    draw_colours(text, day, |look| look.day);
    text.line(format_args!("@media (prefers-color-scheme: dark) {{"));
    draw_colours(text, night, |look| look.night);
    text.line(format_args!("}}\n</style>"));
    // Arrows have the colour of the edges, by day and by night.
    text.line(format_args!(
        "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\"><path class=\"tip\" d=\"M0 0.6 L8 4 L0 7.4 z\"/></marker></defs>"
    ));
}

fn draw_colours(text: &mut Text, [page, words, quiet, line]: [&str; 4], of: impl Fn(&Look) -> Colours) {
    text.line(format_args!(
        ".page {{ fill: {page}; }} text {{ fill: {words}; }} .say {{ fill: {quiet}; }} .edge, .centre {{ stroke: {line}; }} \
         .tip {{ fill: {line}; }} .end {{ fill: {words}; }}"
    ));
    for kind in Kind::ALL {
        let look = look(kind);
        let (Colours { area, line }, class) = (of(&look), look.class);
        text.line(format_args!(".{class}.node {{ fill: {area}; stroke: {line}; }}"));
    }
}

fn draw_legend(text: &mut Text) {
    let (width, height) = LEGEND;
    let mut y = HEAD + height / 2.0;
    let words = MARGIN + width + 14.0;
    let say = |text: &mut Text, y: f64, word: &str, says: &str| {
        text.line(format_args!("<text class=\"type\" x=\"{words}\" y=\"{:.1}\">{word}</text>", y + 4.0));
        text.line(format_args!("<text class=\"say\" x=\"{}\" y=\"{:.1}\">{says}</text>", words + 84.0, y + 4.0));
    };
    for kind in Kind::ALL {
        let Look { shape, says, .. } = look(kind);
        draw_shape(
            text,
            shape,
            &classes(kind, kind == Kind::Partial),
            (MARGIN + width / 2.0, y),
            (width, height - 10.0),
        );
        say(text, y, kind.word(), says);
        y += height;
    }
    draw_end(text, (MARGIN + width / 2.0, y - 8.0));
    say(text, y, "extremity", "a forward extremity, as far as check 6 is final");
    y += height;
    let (left, right) = (MARGIN + 6.0, MARGIN + width - 6.0);
    text.line(format_args!("<path class=\"edge\" marker-end=\"url(#arrow)\" d=\"M{right} {y} L{left} {y}\"/>"));
    say(text, y, "prev event", "from an event to one that it follows; further ones may be left out");
}

fn classes(kind: Kind, is_partial: bool) -> String {
    format!("node {}{}", look(kind).class, if is_partial { " dashed" } else { "" })
}

fn draw_node(text: &mut Text, node: &Node, (x, y): (f64, f64)) {
    let details: Vec<String> = node.details().iter().map(|line| xml(line)).collect();
    text.line(format_args!("<g><title>{}</title>", details.join("\n")));
    if node.is_centre {
        let (width, height) = (SIZES.node.0 + 12.0, SIZES.node.1 + 12.0);
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        text.line(format_args!(
            "<rect class=\"centre\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/>"
        ));
    }
    draw_shape(text, look(node.kind).shape, &classes(node.kind, node.is_partial), (x, y), SIZES.node);
    // The sender's name alone where it is somebody else's state.
    let name = |user: &str| user.split(':').next().unwrap_or_default().to_owned();
    let about = match &node.state_key {
        Some(key) if !key.is_empty() && *key != node.sender => format!("{} → {}", name(&node.sender), name(key)),
        _ => node.sender.clone(),
    };
    let word = format!("{} · {}", node.kind.word(), node.event_id);
    let lines =
        [("mid", &word, OUTER_CHARS), ("mid type", &node.event_type, MIDDLE_CHARS), ("mid", &about, OUTER_CHARS)];
    let lines = lines.into_iter().filter(|(_, line, _)| !line.is_empty());
    let lines: Vec<_> = lines.collect();
    for (nth, (class, line, chars)) in lines.iter().enumerate() {
        let y = y + 4.0 + 15.0 * (nth as f64 - (lines.len() - 1) as f64 / 2.0);
        text.line(format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", xml(&cut(line, *chars))));
    }
    if node.is_extremity {
        draw_end(text, (x, y + SIZES.node.1 / 2.0 + 4.0));
    }
    text.line(format_args!("</g>"));
}

/// Draws the mark of a forward extremity: a wedge that points to what is to come.
fn draw_end(text: &mut Text, (x, y): (f64, f64)) {
    text.line(format_args!(
        "<path class=\"end\" d=\"M{:.1} {y:.1} L{:.1} {y:.1} L{x:.1} {:.1} z\"/>",
        x - 11.0,
        x + 11.0,
        y + 14.0
    ));
}

fn draw_shape(text: &mut Text, shape: Shape, classes: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let (left, right, top, bottom) = (x - width / 2.0, x + width / 2.0, y - height / 2.0, y + height / 2.0);
    let mut rounded = |radius: f64| {
        text.line(format_args!(
            "<rect class=\"{classes}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\"/>"
        ));
    };
    match shape {
        Shape::RoundedBox => rounded(9.0),
        Shape::Pill => rounded(height / 2.0),
        Shape::Ellipse => {
            let (width, height) = (width / 2.0, height / 2.0);
            text.line(format_args!(
                "<ellipse class=\"{classes}\" cx=\"{x:.1}\" cy=\"{y:.1}\" rx=\"{width}\" ry=\"{height}\"/>"
            ));
        }
        Shape::BarredBox => {
            rounded(0.0);
            for bar in [left + 6.0, right - 6.0] {
                text.line(format_args!("<path class=\"{classes}\" d=\"M{bar:.1} {top:.1} V{bottom:.1}\"/>"));
            }
        }
        Shape::Hexagon => {
            let slant = height / 3.0;
            let corners = [(left, y), (left + slant, top), (right - slant, top), (right, y), (right - slant, bottom)];
            polygon(text, classes, &[&corners[..], &[(left + slant, bottom)]].concat());
        }
        Shape::Parallelogram => {
            let slant = height / 4.0;
            polygon(text, classes, &[(left + slant, top), (right, top), (right - slant, bottom), (left, bottom)]);
        }
        Shape::Octagon => {
            for inset in [0.0, 4.0] {
                let (left, right, top, bottom) = (left + inset, right - inset, top + inset, bottom - inset);
                let slant = (bottom - top) / 3.4;
                let upper = [(left, top + slant), (left + slant, top), (right - slant, top), (right, top + slant)];
                let lower =
                    [(right, bottom - slant), (right - slant, bottom), (left + slant, bottom), (left, bottom - slant)];
                polygon(text, classes, &[upper, lower].concat());
            }
        }
    }
}

fn polygon(text: &mut Text, classes: &str, corners: &[(f64, f64)]) {
    let corners: Vec<String> = corners.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    text.line(format_args!("<polygon class=\"{classes}\" points=\"{}\"/>", corners.join(" ")));
}

/// Draws an arrow from an event up to one that it follows, through the places that are kept free for it.
fn draw_edge(text: &mut Text, layout: &Layout, (from, to): (usize, usize), bends: &[(f64, f64)]) {
    let half = SIZES.node.1 / 2.0;
    let ((from_x, from_y), (to_x, to_y)) = (layout.nodes[from], layout.nodes[to]);
    // Depths can lie: then it leads down, or to the side, over the tops of both.
    let up = if from_y >= to_y { half } else { -half };
    let mut y = from_y - up;
    text.put(format_args!("<path class=\"edge\" marker-end=\"url(#arrow)\" d=\"M{from_x:.1} {y:.1}"));
    let mut x = from_x;
    let mut curve = |text: &mut Text, (to_x, to_y): (f64, f64), middle: f64| {
        text.put(format_args!(" C{x:.1} {middle:.1} {to_x:.1} {middle:.1} {to_x:.1} {to_y:.1}"));
        (x, y) = (to_x, to_y);
        y
    };
    let mut last = from_y - up;
    for (bend_x, bend_y) in bends.iter().copied() {
        curve(text, (bend_x, bend_y + up), f64::midpoint(last, bend_y + up));
        last = curve(text, (bend_x, bend_y - up), bend_y);
    }
    if from_y == to_y {
        curve(text, (to_x, to_y - up), last - SIZES.gap.1 / 2.0);
    } else {
        curve(text, (to_x, to_y + up), f64::midpoint(last, to_y + up));
    }
    text.line(format_args!("\"/>"));
}
