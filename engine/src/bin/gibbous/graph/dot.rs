//! The event graph in the language of Graphviz.

use super::{
    look::{Look, look},
    read::{Graph, Node},
};
use crate::{
    plain::{Text, cut, dot},
    stored::Kind,
};

pub(super) fn draw(graph: &Graph) -> String {
    let mut text = Text::default();
    text.line(format_args!("digraph \"{}\" {{", dot(graph.room_id.as_str())));
    let (room, extent) = (dot(graph.room_id.as_str()), dot(&graph.extent()));
    // Events stand below what they follow: time runs downwards.
    text.line(format_args!("  graph [rankdir=BT, fontname=\"sans-serif\", labelloc=t, label=\"{room}\\n{extent}\"];"));
    text.line(format_args!("  node [fontname=\"sans-serif\", fontsize=10];"));
    text.line(format_args!("  edge [color=\"#767676\"];"));
    for (place, node) in graph.nodes.iter().enumerate() {
        draw_node(&mut text, place, node);
    }
    for (from, to) in &graph.edges {
        text.line(format_args!("  e{from} -> e{to};"));
    }
    draw_legend(&mut text);
    text.line(format_args!("}}"));
    text.into_string()
}

fn draw_node(text: &mut Text, place: usize, node: &Node) {
    let Look { dot: shape, dot_style, day, .. } = look(node.kind);
    let dashed = if node.is_partial && node.kind != Kind::Partial { ",dashed" } else { "" };
    let word =
        if node.is_extremity { format!("{} · extremity", node.kind.word()) } else { node.kind.word().to_owned() };
    let lines = [&node.event_type, &node.sender, &word, node.event_id.as_str()].map(|line| dot(&cut(line, 40)));
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let width = if node.is_extremity || node.is_centre { 3 } else { 1 };
    text.line(format_args!(
        "  e{place} [shape={shape}, style=\"{dot_style}{dashed}\", color=\"{}\", fillcolor=\"{}\", penwidth={width}, \
         label=\"{}\", tooltip=\"{}\"];",
        day.line,
        area(day.area),
        lines.join("\\n"),
        node.details().iter().map(|line| dot(line)).collect::<Vec<_>>().join("\\n"),
    ));
}

fn area(colour: &str) -> &str {
    if colour == "none" { "transparent" } else { colour }
}

fn draw_legend(text: &mut Text) {
    text.line(format_args!("  subgraph cluster_legend {{"));
    text.line(format_args!("    label=\"legend\"; labelloc=t; color=\"#767676\"; fontsize=10;"));
    for (nth, kind) in Kind::ALL.into_iter().enumerate() {
        let Look { dot: shape, dot_style, day, says, .. } = look(kind);
        text.line(format_args!(
            "    legend{nth} [shape={shape}, style=\"{dot_style}\", color=\"{}\", fillcolor=\"{}\", \
             label=\"{}\\n{says}\"];",
            day.line,
            area(day.area),
            kind.word(),
        ));
    }
    text.line(format_args!(
        "    legend_extremity [shape=box, style=rounded, penwidth=3, label=\"thick line\\na forward extremity\"];"
    ));
    text.line(format_args!("  }}"));
}
