//! `gibbous replay --report`: a page that shows what happened, without a script and without anything from elsewhere.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use gibbous::replay::Report;

use super::{
    chart::{self, end_in_words},
    output::{Outcome, Played, mebibytes},
    timeline::{End, Timeline},
};
use crate::plain::{Text, xml};

const STYLE: &str = "
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --quiet: #5a626d; --rule: #d6dae0; --card: #f5f6f8;
  --partial: #ffe2a8; --partial-line: #a15c00; --full: #cdebd3; --full-line: #1f7a3a; --given: #2f6fb3; --bad: #b3261e;
  --verdict: #6f3fb5; --area: #2f6fb31f; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e8eaed; --quiet: #a9b0ba; --rule: #3a4048;
  --card: #1e2227; --partial: #4d370d; --partial-line: #f0b255; --full: #1b4427; --full-line: #63c982; --given: #74aee8;
  --bad: #f28b82; --verdict: #c09af2; --area: #74aee826; } }
body { margin: 0 auto; padding: 24px; max-width: 1140px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 4px; overflow-wrap: anywhere; }
h3 { font-size: 15px; margin: 24px 0 6px; } p { margin: 6px 0; } .quiet { color: var(--quiet); }
section { border-top: 1px solid var(--rule); margin-top: 28px; }
.passed { color: var(--full-line); } .failed { color: var(--bad); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; margin: 14px 0; }
dl div { background: var(--card); border-radius: 8px; padding: 10px 12px; } dt { color: var(--quiet); font-size: 13px; }
dd { margin: 0; font-size: 19px; font-weight: 600; } dd small { font-size: 13px; font-weight: 400; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } th.n { text-align: right; }
td.id { font-family: ui-monospace, monospace; font-size: 12px; overflow-wrap: anywhere; min-width: 330px; }
summary { cursor: pointer; margin: 10px 0; } svg { width: 100%; min-width: 860px; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .lane { text-anchor: end; fill: var(--quiet); }
svg .small { font-size: 11px; fill: var(--quiet); } svg .mid { text-anchor: middle; }
svg .partial { fill: var(--partial); stroke: var(--partial-line); stroke-dasharray: 6 4; }
svg .full { fill: var(--full); stroke: var(--full-line); } svg .flip { stroke: var(--ink); stroke-width: 2.5; }
svg .tick { stroke: var(--quiet); stroke-width: 1.2; fill: none; } svg .ours { fill: var(--ink); }
svg .reopened { stroke: var(--bad); stroke-width: 1.6; } svg .jump { stroke: var(--verdict); stroke-dasharray: 3 3; }
svg .given { fill: var(--given); } svg .failed { fill: var(--page); stroke: var(--bad); stroke-width: 1.4; }
svg .open { fill: none; stroke: var(--quiet); stroke-dasharray: 2 2; } svg .verdict { fill: var(--verdict); }
svg .base { stroke: var(--quiet); } svg .guide { stroke: var(--full-line); stroke-dasharray: 5 4; }
svg .top { stroke: var(--rule); stroke-dasharray: 2 4; }
svg .area { fill: var(--area); } svg .curve { fill: none; stroke: var(--given); stroke-width: 1.8; }
.key { display: inline-block; width: 26px; height: 9px; border-radius: 2px; margin: 0 5px 0 12px; }
.key.given { background: var(--given); } .key.failed { box-shadow: inset 0 0 0 1.5px var(--bad); }
.key.open { border: 1px dashed var(--quiet); height: 7px; width: 24px; }
";

/// A page that is being written, a section for each recording.
#[derive(Debug)]
pub(super) struct Page {
    out: BufWriter<File>,
}

impl Page {
    /// Begins a page in a file, which is written over.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\"/>\n<title>gibbous: a replay</title>\n<style>{STYLE}</style>\n\
             </head>\n<body>\n<h1>A replay</h1>\n<p class=\"quiet\">What an engine did with recordings of rooms: the join \
             with partial state, the events that came, the resync, and the moment from which on the state was full.</p>\n"
        )?;
        Ok(Self { out })
    }

    /// Adds a section for a recording.
    pub(super) fn add(&mut self, played: &Played, timeline: &Timeline) -> io::Result<()> {
        let mut text = Text::default();
        let file = xml(&played.file);
        text.line(format_args!("<section>"));
        match &played.outcome {
            Outcome::Played { report, peak_rss_bytes } => {
                let passed = if report.passed() { "passed" } else { "failed" };
                text.line(format_args!("<h2>{file}: <span class=\"{passed}\">{passed}</span></h2>"));
                write_figures(&mut text, report, *peak_rss_bytes);
                write_mismatches(&mut text, report);
                write_timeline(&mut text, timeline);
                write_verdicts(&mut text, timeline);
                write_notes(&mut text, timeline);
                write_questions(&mut text, timeline);
            }
            Outcome::Unusable(unusable) => {
                text.line(format_args!("<h2>{file}: <span class=\"failed\">could not be used</span></h2>"));
                text.line(format_args!("<p>{}</p>", xml(&unusable.to_string())));
            }
        }
        text.line(format_args!("</section>"));
        self.out.write_all(text.into_string().as_bytes())
    }

    /// Ends the page.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.out.write_all(b"</body>\n</html>\n")?;
        self.out.flush()
    }
}

fn write_figures(text: &mut Text, report: &Report, peak_rss_bytes: Option<u64>) {
    let ms = |ms: Option<f64>| ms.map_or("none".to_owned(), |ms| format!("{ms:.1} <small>ms</small>"));
    let bytes = |bytes: Option<u64>| bytes.map_or("none".to_owned(), mebibytes);
    let figures = [
        ("partial join, measured", ms(report.join_ms)),
        ("resync, measured", ms(report.resync_ms)),
        ("events handed over", report.events.to_string()),
        ("state events at the end", report.state_events.to_string()),
        ("requests", report.requests.to_string()),
        ("flipped", report.flipped.to_string()),
        ("verdicts changed", report.verdicts_changed.to_string()),
        ("restarts", report.restarts.to_string()),
        ("on disk", bytes(report.bytes_on_disk)),
        ("memory at most", bytes(peak_rss_bytes)),
        ("expectations compared", report.expectations.to_string()),
        ("expectations not met", report.mismatches.len().to_string()),
    ];
    text.line(format_args!("<dl>"));
    for (name, value) in figures {
        text.line(format_args!("<div><dt>{name}</dt><dd>{value}</dd></div>"));
    }
    text.line(format_args!("</dl>"));
}

fn write_mismatches(text: &mut Text, report: &Report) {
    const SHOWN: usize = 200;
    if report.mismatches.is_empty() {
        return;
    }
    text.line(format_args!("<h3 class=\"failed\">What did not hold</h3>\n<ul>"));
    for mismatch in report.mismatches.iter().take(SHOWN) {
        text.line(format_args!("<li>line {}: {}</li>", mismatch.line, xml(&mismatch.to_string())));
    }
    write_rest(text, "li", report.mismatches.len().saturating_sub(SHOWN) as u64);
    text.line(format_args!("</ul>"));
}

fn write_rest(text: &mut Text, element: &str, left_out: u64) {
    if left_out > 0 {
        text.line(format_args!("<{element} class=\"quiet\">{left_out} more are left out</{element}>"));
    }
}

fn write_timeline(text: &mut Text, timeline: &Timeline) {
    let jumped_ms: u64 = timeline.jumps.first.iter().map(|(_, by_ms)| by_ms).sum();
    let seconds = jumped_ms as f64 / 1e3;
    let in_words = |(from, to): &(u64, Option<u64>)| match to {
        Some(to) => format!(" The room was partial from {from} on, and had its full state from {to} on."),
        None => format!(" The room was partial from {from} on, to the end."),
    };
    let partial: String = timeline.partial.first.iter().take(10).map(in_words).collect();
    text.line(format_args!(
        "<h3>Timeline</h3>\n<p class=\"quiet\">From left to right stands the order in which things happened, {} of them. \
         It is not time: a recording has its answers at hand, and the replay's clock stands still but for jumps to the \
         engine's next deadline ({} of them, {seconds:.1} s together). A bar shows between which happenings a question was \
         open. Real time is in the lowest curve alone: what was spent in calls of the engine by then.{partial}</p>",
        timeline.end, timeline.jumps.count
    ));
    text.line(format_args!("<div class=\"wide\">"));
    text.put(format_args!("{}", chart::draw(timeline)));
    text.line(format_args!(
        "</div>\n<p class=\"quiet\">Requests:<span class=\"key given\"></span>answered<span class=\"key failed\"></span>\
         answered with an error<span class=\"key open\"></span>not answered. The recording: a line is an event that was \
         pushed to us, with a dot one of our own, a diamond what it says. A red line is a restart, a dashed one a jump of \
         the clock. Everything has a title that says more.</p>"
    ));
    let curves = timeline.spent.left_out() + timeline.flips.left_out() + timeline.steps.left_out();
    write_rest(text, "p", curves + timeline.state_events.left_out());
}

fn write_verdicts(text: &mut Text, timeline: &Timeline) {
    if timeline.verdicts.count == 0 {
        return;
    }
    text.line(format_args!(
        "<h3>Verdicts that changed</h3>\n<div class=\"wide\"><table><tr><th class=\"n\">order</th><th>event</th><th>was</th>\
         <th>is</th></tr>"
    ));
    for verdict in &timeline.verdicts.first {
        text.line(format_args!(
            "<tr><td class=\"n\">{}</td><td class=\"id\">{}</td><td>{}</td><td>{}</td></tr>",
            verdict.at,
            xml(&verdict.event_id),
            xml(&verdict.was),
            xml(&verdict.is)
        ));
    }
    text.line(format_args!("</table></div>"));
    write_rest(text, "p", timeline.verdicts.left_out());
}

fn write_notes(text: &mut Text, timeline: &Timeline) {
    if timeline.notes.count == 0 {
        return;
    }
    text.line(format_args!("<h3>What else was told</h3>\n<ul>"));
    for (at, note) in &timeline.notes.first {
        text.line(format_args!("<li>{at}: {}</li>", xml(note)));
    }
    write_rest(text, "li", timeline.notes.left_out());
    text.line(format_args!("</ul>"));
}

fn write_questions(text: &mut Text, timeline: &Timeline) {
    text.line(format_args!(
        "<details><summary>Requests, one by one ({})</summary>\n<div class=\"wide\"><table><tr><th class=\"n\">asked</th>\
         <th>server</th><th>question</th><th>about</th><th>what became of it</th><th class=\"n\">bytes</th><th class=\"n\">\
         taken in, ms</th></tr>",
        timeline.questions.count
    ));
    for question in &timeline.questions.first {
        let (bytes, took) = match question.end {
            Some((_, End::Answered { bytes, took, .. })) => {
                (bytes.to_string(), format!("{:.2}", took.as_secs_f64() * 1e3))
            }
            _ => Default::default(),
        };
        let about = match &question.about[..] {
            [] => String::new(),
            [one] => one.clone(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
        };
        text.line(format_args!(
            "<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td><td class=\"id\">{}</td><td>{}</td><td class=\"n\">{bytes}</td>\
             <td class=\"n\">{took}</td></tr>",
            question.asked,
            xml(&question.destination),
            question.endpoint,
            xml(&about),
            end_in_words(question).1
        ));
    }
    text.line(format_args!("</table></div>"));
    write_rest(text, "p", timeline.questions.left_out());
    text.line(format_args!("</details>"));
}
