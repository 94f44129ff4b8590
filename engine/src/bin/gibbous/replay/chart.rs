//! A replay's timeline as a picture: lanes one below the other over one axis, the order of happenings.

use super::timeline::{At, End, Question, Timeline};
use crate::plain::{Text, xml};

/// Where the lanes begin, behind their names, and how wide they are.
const LEFT: f64 = 150.0;
const WIDTH: f64 = 930.0;
const RIGHT: f64 = 30.0;
/// How many rows of questions are drawn, and how high they are together, if they can be.
const ROWS_MAX: usize = 60;
const ROWS_HEIGHT: f64 = 240.0;
const CURVE: f64 = 64.0;
const GAP: f64 = 20.0;
/// How wide the word of a step is.
const WORD: f64 = 56.0;

struct Chart<'a> {
    timeline: &'a Timeline,
    text: Text,
    y: f64,
}

/// Draws a timeline.
pub(super) fn draw(timeline: &Timeline) -> String {
    let mut chart = Chart { timeline, text: Text::default(), y: 14.0 };
    chart.phases();
    chart.steps();
    chart.questions();
    chart.verdicts();
    let flips: Vec<(At, f64)> =
        timeline.flips.first.iter().enumerate().map(|(nth, at)| (*at, (nth + 1) as f64)).collect();
    chart.curve("events flipped", &flips, |value| format!("{value:.0}"));
    let sizes: Vec<(At, f64)> = timeline.state_events.first.iter().map(|(at, size)| (*at, *size as f64)).collect();
    chart.curve("current state, events", &sizes, |value| format!("{value:.0}"));
    let spent: Vec<(At, f64)> =
        timeline.spent.first.iter().map(|(at, spent)| (*at, spent.as_secs_f64() * 1e3)).collect();
    chart.curve("time in the engine", &spent, |value| format!("{value:.1} ms"));
    chart.axis();
    let (width, height) = (LEFT + WIDTH + RIGHT, chart.y);
    let guides = chart.guides(height - 2.0 * GAP);
    let mut svg = Text::default();
    svg.line(format_args!("<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"timeline\">"));
    svg.put(format_args!("{guides}{}", chart.text.into_string()));
    svg.line(format_args!("</svg>"));
    svg.into_string()
}

impl Chart<'_> {
    fn x(&self, at: At) -> f64 {
        LEFT + WIDTH * at as f64 / self.timeline.end.max(1) as f64
    }

    fn name(&mut self, name: &str, y: f64) {
        self.text.line(format_args!("<text class=\"lane\" x=\"{:.1}\" y=\"{y:.1}\">{name}</text>", LEFT - 14.0));
    }

    /// Draws through all lanes when the room came to have its full state.
    fn guides(&self, bottom: f64) -> String {
        let mut text = Text::default();
        for at in self.timeline.partial.first.iter().filter_map(|(_, to)| *to) {
            text.line(format_args!("<path class=\"guide\" d=\"M{:.1} 8 V{bottom:.1}\"/>", self.x(at)));
        }
        text.into_string()
    }

    /// Draws when the room was partial, and when the engine was opened again and the clock put forward.
    fn phases(&mut self) {
        let (y, height) = (self.y, 24.0);
        self.name("the room", y + 16.0);
        let spans = &self.timeline.partial.first;
        let mut full_from = None;
        for (nth, (from, to)) in spans.iter().enumerate() {
            let end = spans.get(nth + 1).map_or(self.timeline.end, |(next, _)| *next);
            self.span("partial", "partial", (*from, to.unwrap_or(end)), (y, height));
            if let Some(to) = to {
                self.span("full", "full", (*to, end), (y, height));
                full_from = Some(*to);
            }
        }
        if let Some(at) = full_from {
            let x = self.x(at);
            self.text.line(format_args!(
                "<path class=\"flip\" d=\"M{x:.1} {:.1} V{:.1}\"><title>the room has its full state ({at})</title></path>",
                y - 6.0,
                y + height + 6.0
            ));
        }
        self.y += height + GAP;
    }

    fn span(&mut self, class: &str, word: &str, (from, to): (At, At), (y, height): (f64, f64)) {
        let (from_x, width) = (self.x(from), (self.x(to) - self.x(from)).max(1.0));
        self.text.line(format_args!(
            "<g><title>{word}, from {from} to {to}</title><rect class=\"{class}\" x=\"{from_x:.1}\" y=\"{y:.1}\" \
             width=\"{width:.1}\" height=\"{height}\" rx=\"4\"/>"
        ));
        if width > 50.0 {
            let (x, y) = (from_x + width / 2.0, y + height / 2.0 + 4.0);
            self.text.line(format_args!("<text class=\"mid\" x=\"{x:.1}\" y=\"{y:.1}\">{word}</text>"));
        }
        self.text.line(format_args!("</g>"));
    }

    /// Draws the steps of the recording, and what came between: one mark for each pixel is enough.
    fn steps(&mut self) {
        let y = self.y;
        self.name("the recording", y + 14.0);
        let mut last = None;
        let mut words_end = [f64::NEG_INFINITY; 2];
        for (at, kind) in &self.timeline.steps.first {
            let x = self.x(*at);
            let pixel = (x.round() as i64, *kind);
            if last.replace(pixel) == Some(pixel) {
                continue;
            }
            let title = format!("<title>{kind} ({at})</title>");
            match *kind {
                "pdu" => self.text.line(format_args!("<path class=\"tick\" d=\"M{x:.1} {y:.1} v20\">{title}</path>")),
                "local" | "leave" => self.text.line(format_args!(
                    "<g>{title}<path class=\"tick\" d=\"M{x:.1} {y:.1} v20\"/><circle class=\"ours\" cx=\"{x:.1}\" \
                     cy=\"{y:.1}\" r=\"3.5\"/></g>"
                )),
                _ => {
                    self.text.line(format_args!(
                        "<path class=\"ours\" d=\"M{x:.1} {:.1} l6 7 l-6 7 l-6 -7 z\">{title}</path>",
                        y + 3.0
                    ));
                    // Words that would lie on each other stand one below the other, if at all.
                    if let Some(line) = words_end.iter().position(|end| *end < x) {
                        words_end[line] = x + WORD;
                        let (word, y) = (kind.replace('_', " "), y + 31.0 + 12.0 * line as f64);
                        self.text
                            .line(format_args!("<text class=\"small mid\" x=\"{x:.1}\" y=\"{y:.1}\">{word}</text>"));
                    }
                }
            }
        }
        let marks = self.timeline.reopened.first.iter().map(|at| (*at, "reopened", "the engine was opened again"));
        let jumps = self.timeline.jumps.first.iter().map(|(at, _)| (*at, "jump", "the clock was put forward"));
        for (at, class, title) in marks.chain(jumps).take(2_000) {
            let x = self.x(at);
            self.text.line(format_args!(
                "<path class=\"{class}\" d=\"M{x:.1} {y:.1} v20\"><title>{title} ({at})</title></path>"
            ));
        }
        self.y += if words_end[1].is_finite() { 46.0 } else { 34.0 } + GAP / 2.0;
    }

    /// Draws each question as a bar from when it was asked to when it was answered.
    fn questions(&mut self) {
        let y = self.y;
        let (rows, count) = self.rows_of_questions();
        let pitch = (ROWS_HEIGHT / count.max(1) as f64).clamp(4.0, 11.0);
        for (question, row) in self.timeline.questions.first.iter().zip(&rows) {
            let Some(row) = row else { continue };
            let (from, to) = self.ends(question);
            let (class, end) = end_in_words(question);
            let asked = question.asked;
            let title = xml(&format!(
                "{} {} {}\nasked {asked}, {end}",
                question.destination,
                question.endpoint,
                question.about.first().map_or("", String::as_str)
            ));
            self.text.line(format_args!(
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"1.5\"><title>\
                 {title}</title></rect>",
                y + pitch * *row as f64,
                to - from,
                pitch * 0.7
            ));
        }
        let not_drawn = rows.iter().filter(|row| row.is_none()).count() as u64 + self.timeline.questions.left_out();
        self.name("requests", y + 9.0);
        if not_drawn > 0 {
            self.name(&format!("{not_drawn} not drawn"), y + 24.0);
        }
        self.y += f64::max(pitch * count as f64, 26.0) + GAP;
    }

    /// Gives each question the first row that is free by then, as far as there are rows; returns how many are taken, too.
    fn rows_of_questions(&self) -> (Vec<Option<usize>>, usize) {
        let mut free_from: Vec<f64> = Vec::new();
        let mut rows = Vec::new();
        for question in &self.timeline.questions.first {
            let (from, to) = self.ends(question);
            let mut row = free_from.iter().position(|free| *free <= from);
            if row.is_none() && free_from.len() < ROWS_MAX {
                free_from.push(0.0);
                row = Some(free_from.len() - 1);
            }
            if let Some(row) = row {
                free_from[row] = to + 1.5;
            }
            rows.push(row);
        }
        (rows, free_from.len())
    }

    /// Returns where a question's bar begins and ends; it can be seen, however short it was open.
    fn ends(&self, question: &Question) -> (f64, f64) {
        let from = self.x(question.asked);
        (from, self.x(question.end.map_or(self.timeline.end, |(at, _)| at)).max(from + 3.0))
    }

    fn verdicts(&mut self) {
        let y = self.y;
        self.name("verdicts changed", y + 12.0);
        if self.timeline.verdicts.count == 0 {
            self.text.line(format_args!("<text class=\"small\" x=\"{LEFT}\" y=\"{:.1}\">none</text>", y + 12.0));
        }
        for verdict in &self.timeline.verdicts.first {
            let x = self.x(verdict.at);
            let title = xml(&format!("{} ({})\n{} → {}", verdict.event_id, verdict.at, verdict.was, verdict.is));
            self.text.line(format_args!(
                "<path class=\"verdict\" d=\"M{x:.1} {y:.1} l5 8 l-5 8 l-5 -8 z\"><title>{title}</title></path>"
            ));
        }
        self.y += 16.0 + GAP;
    }

    /// Draws how a number changes: it stays as it is until it changes.
    fn curve(&mut self, name: &str, points: &[(At, f64)], in_words: impl Fn(f64) -> String) {
        let (top, bottom) = (self.y, self.y + CURVE);
        self.name(name, top + 12.0);
        let max = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let most = in_words(max);
        let right = LEFT + WIDTH;
        self.text.line(format_args!("<path class=\"base\" d=\"M{LEFT} {bottom:.1} H{right:.1}\"/>"));
        self.text.line(format_args!("<path class=\"top\" d=\"M{LEFT} {top:.1} H{right:.1}\"/>"));
        self.name(&format!("at most {most}"), top + 27.0);
        let height = |value: f64| if max > 0.0 { bottom - CURVE * value / max } else { bottom };
        let mut line = Text::default();
        line.put(format_args!("M{LEFT} {bottom:.1}"));
        let mut points = points.iter().peekable();
        while let Some((at, value)) = points.next() {
            let x = self.x(*at);
            // The last one of each pixel tells where it stands.
            if points.peek().is_none_or(|(next, _)| self.x(*next).round() > x.round()) {
                line.put(format_args!(" H{x:.1} V{:.1}", height(*value)));
            }
        }
        let line = line.into_string();
        self.text.line(format_args!("<path class=\"area\" d=\"{line} H{right:.1} V{bottom:.1} z\"/>"));
        self.text.line(format_args!("<path class=\"curve\" d=\"{line} H{right:.1}\"/>"));
        self.y = bottom + GAP;
    }

    fn axis(&mut self) {
        let (y, end) = (self.y, self.timeline.end);
        self.name("order of happenings", y + 12.0);
        for part in 0..=4_u64 {
            let at = end * part / 4;
            let x = self.x(at);
            self.text.line(format_args!("<path class=\"tick\" d=\"M{x:.1} {:.1} v5\"/>", y - 6.0));
            self.text.line(format_args!("<text class=\"small mid\" x=\"{x:.1}\" y=\"{:.1}\">{at}</text>", y + 12.0));
        }
        self.y += GAP + 4.0;
    }
}

/// Returns the class of a question's bar, and what became of it in words.
pub(super) fn end_in_words(question: &Question) -> (&'static str, String) {
    match question.end {
        None => ("open", "never answered".to_owned()),
        Some((at, End::Forgotten)) => ("open", format!("forgotten when the engine was opened again, {at}")),
        Some((at, End::Answered { is_given: true, .. })) => ("given", format!("answered {at}")),
        Some((at, End::Answered { is_given: false, .. })) => ("failed", format!("answered {at}, with an error")),
    }
}
