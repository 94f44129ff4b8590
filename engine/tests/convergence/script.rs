//! What befalls a homeserver, as a list of actions that can be written down, played again and shortened.
//!
//! An action means something in any world: what it names by a number is taken modulo what there is, and where there is
//! nothing it does nothing. So a script stays a script when actions are taken out of it.

use std::{fmt, str::FromStr};

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Events of the room's later history are handed over as one transaction: `h3,4`.
    Hand(Vec<usize>),
    /// A redacted copy of an event of the later history is handed over: `c3`.
    Redacted(usize),
    /// An event that was handed over before comes again: `g5`.
    Again(usize),
    /// A question that is open is answered: `a0w`.
    Answer(usize, How),
    /// An answer comes that nobody waits for any more: `l0`.
    Late(usize),
    /// The homeserver restarts: `r`.
    Restart,
    /// The time comes at which the engine wants to be called: `t`.
    PassTime,
    /// One of our users does something (who, and a seed): `s0.17`.
    Speak(usize, u64),
    /// Another server's user does something after what has happened by now, and the event comes (a seed): `o17`.
    Others(u64),
    /// One of our users joins by handshake (who, and a seed): `j1.17`.
    Join(usize, u64),
    /// One of our users leaves: `v0`.
    Leave(usize),
}

/// How a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// As well as the server can: `w`.
    Well,
    /// With 403: `r`.
    Refuse,
    /// Not in time: `t`.
    Timeout,
    /// Not before somebody thinks of it ([`Action::Late`]): `l`.
    Later,
    /// Well, and once more ([`Action::Late`]): `d`.
    Twice,
    /// With nothing in it: `e`.
    Empty,
    /// With what is not true (a seed): `x17`.
    Lie(u64),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hand(events) => {
                let events: Vec<String> = events.iter().map(ToString::to_string).collect();
                write!(f, "h{}", events.join(","))
            }
            Self::Redacted(event) => write!(f, "c{event}"),
            Self::Again(event) => write!(f, "g{event}"),
            Self::Answer(question, how) => {
                write!(f, "a{question}")?;
                match how {
                    How::Well => f.write_str("w"),
                    How::Refuse => f.write_str("r"),
                    How::Timeout => f.write_str("t"),
                    How::Later => f.write_str("l"),
                    How::Twice => f.write_str("d"),
                    How::Empty => f.write_str("e"),
                    How::Lie(seed) => write!(f, "x{seed}"),
                }
            }
            Self::Late(answer) => write!(f, "l{answer}"),
            Self::Restart => f.write_str("r"),
            Self::PassTime => f.write_str("t"),
            Self::Speak(user, seed) => write!(f, "s{user}.{seed}"),
            Self::Others(seed) => write!(f, "o{seed}"),
            Self::Join(user, seed) => write!(f, "j{user}.{seed}"),
            Self::Leave(user) => write!(f, "v{user}"),
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no action");
        let (kind, rest) = text.split_at_checked(1).ok_or_else(bad)?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
        let seed = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let user_and_seed = || {
            let (user, of) = rest.split_once('.').ok_or_else(bad)?;
            Ok::<_, String>((number(user)?, seed(of)?))
        };
        Ok(match kind {
            "h" => Self::Hand(rest.split(',').map(number).collect::<Result<_, _>>()?),
            "c" => Self::Redacted(number(rest)?),
            "g" => Self::Again(number(rest)?),
            "a" => {
                let at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
                let how = match &rest[at..] {
                    "w" => How::Well,
                    "r" => How::Refuse,
                    "t" => How::Timeout,
                    "l" => How::Later,
                    "d" => How::Twice,
                    "e" => How::Empty,
                    lie => How::Lie(seed(lie.strip_prefix('x').ok_or_else(bad)?)?),
                };
                Self::Answer(number(&rest[..at])?, how)
            }
            "l" => Self::Late(number(rest)?),
            "r" => Self::Restart,
            "t" => Self::PassTime,
            "s" => user_and_seed().map(|(user, seed)| Self::Speak(user, seed))?,
            "o" => Self::Others(seed(rest)?),
            "j" => user_and_seed().map(|(user, seed)| Self::Join(user, seed))?,
            "v" => Self::Leave(number(rest)?),
            _ => return Err(bad()),
        })
    }
}

/// A room, and what befalls the homeserver that joins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// What the room, its version and the servers' tempers are made of.
    pub(crate) seed: u64,
    /// How many events of the room's later history there are.
    pub(crate) later_max: usize,
    /// What happens after the join, before everybody answers well.
    pub(crate) actions: Vec<Action>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.seed, self.later_max)?;
        self.actions.iter().try_for_each(|action| write!(f, " {action}"))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let room = words.next().and_then(|room| room.split_once('/'));
        let number = |text: &str| text.parse::<u64>().ok();
        let room = room.and_then(|(seed, later_max)| Some((number(seed)?, number(later_max)? as usize)));
        let (seed, later_max) = room.ok_or_else(|| format!("{text:?} does not begin with SEED/EVENTS"))?;
        Ok(Self { seed, later_max, actions: words.map(str::parse).collect::<Result<_, _>>()? })
    }
}

#[test]
fn a_script_is_read_as_it_is_written() {
    let text = "17/30 h3,4 c3 g5 a0w a1r a2t a3l a4d a5e a6x99 l0 r t s0.17 o18 j1.19 v0";
    assert_eq!(text.parse::<Script>().expect("it is a script").to_string(), text);
    assert!("17/30 h3 q".parse::<Script>().is_err());
    assert!("h3".parse::<Script>().is_err());
}
