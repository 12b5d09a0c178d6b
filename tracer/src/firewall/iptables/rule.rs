//! One rule as `iptables-save` writes it.

use crate::firewall::words::{endpoint, nets, number, port_range, protocol};
use crate::firewall::{Match, Rule, Stateful, Target};

/// Parses `-A CHAIN … -j TARGET …`; `is_chain` knows the table's own chains.
pub(in crate::firewall) fn parse(spec: &str, is_chain: &dyn Fn(&str) -> bool) -> Rule {
    let words = split(spec);
    let mut reader = Reader {
        words: &words,
        // `-A CHAIN` was read by the caller.
        at: 2,
        rule: Rule {
            number: 0,
            handle: None,
            text: one_line(spec),
            comment: None,
            counter: None,
            matches: Vec::new(),
            also: Vec::new(),
            target: Target::Continue,
        },
        module: String::new(),
    };
    reader.read(is_chain);
    reader.rule
}

/// What would break the line is escaped: in an iptables rule, only a comment or prefix has it.
fn one_line(spec: &str) -> String {
    if !spec.contains(char::is_control) {
        return spec.to_owned();
    }
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    spec.chars().map(escape).collect()
}

/// Words of a line: iptables-save puts those with blanks in double quotes and escapes `"`, `'`,
/// `\` and `$` there (`xtables_save_string`).
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut is_open, mut is_quoted) = (false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (is_quoted, is_open) = (!is_quoted, true),
            '\\' if is_quoted => word.extend(chars.next()),
            c if c.is_whitespace() && !is_quoted => {
                if std::mem::take(&mut is_open) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                is_open = true;
            }
        }
    }
    if is_open {
        words.push(word);
    }
    words
}

/// A word as `iptables-save` writes it.
pub(in crate::firewall) fn quoted(word: &str) -> String {
    if !word.is_empty() && !word.contains([' ', '\t', '"', '\'', '\\', '$']) {
        return word.to_owned();
    }
    let escaped: String = word
        .chars()
        .flat_map(|c| {
            let escape = matches!(c, '"' | '\'' | '\\' | '$').then_some('\\');
            escape.into_iter().chain([c])
        })
        .collect();
    format!("\"{escaped}\"")
}

struct Reader<'a> {
    words: &'a [String],
    at: usize,
    rule: Rule,
    /// The match extension whose options are being read.
    module: String,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn read(&mut self, is_chain: &dyn Fn(&str) -> bool) {
        let mut not = false;
        while let Some(word) = self.next() {
            match word {
                "!" => {
                    not = true;
                    continue;
                }
                "-m" => self.module = self.next().unwrap_or_default().to_owned(),
                "-j" => {
                    let name = self.next().unwrap_or_default();
                    let options = self.words.get(self.at..).unwrap_or_default();
                    self.rule.target = target(name, options, is_chain);
                    return;
                }
                "-g" => {
                    self.rule.target = Target::Goto(self.next().unwrap_or_default().to_owned());
                    return;
                }
                option => {
                    let start = self.at - 1;
                    if !self.option(option, not) {
                        self.at = start;
                        self.other(not);
                    }
                }
            }
            not = false;
        }
    }

    /// Reads a modelled option; `false` leaves it to [`Self::other`].
    fn option(&mut self, option: &str, not: bool) -> bool {
        let found = match option {
            "-f" => Some(Match::Fragment { not }),
            "--syn" => Some(Match::TcpFlags { mask: 0x17, value: 0x02, not }),
            "--physdev-is-bridged" => Some(Match::Bridged { not }),
            "--mode" | "--packet" => return self.next().is_some(),
            "--tcp-flags" => self.tcp_flags(not),
            "--match-set" => self.set(not),
            "--every" if self.module == "statistic" => self.every(),
            _ => match self.next() {
                Some(value) => return self.valued(option, value, not),
                None => None,
            },
        };
        found.is_some_and(|m| {
            self.rule.matches.push(m);
            true
        })
    }

    fn valued(&mut self, option: &str, value: &str, not: bool) -> bool {
        let found = match (self.module.as_str(), option) {
            (_, "-s") => nets(value).map(|nets| Match::Src { nets, not }),
            (_, "-d") => nets(value).map(|nets| Match::Dst { nets, not }),
            (_, "-i") => Some(Match::Iif { names: vec![value.to_owned()], not }),
            (_, "-o") => Some(Match::Oif { names: vec![value.to_owned()], not }),
            (_, "-p") => protocol(value).map(|number| Match::Proto { number, not }),
            ("comment", "--comment") => {
                self.rule.comment = Some(value.to_owned());
                return true;
            }
            (_, "--sport" | "--sports") => ranges(value).map(|ranges| Match::Sport { ranges, not }),
            (_, "--dport" | "--dports") => ranges(value).map(|ranges| Match::Dport { ranges, not }),
            ("icmp", "--icmp-type") if value == "any" => return true,
            ("icmp", "--icmp-type") | ("icmp6", "--icmpv6-type") => icmp(value, not),
            ("conntrack", "--ctstate") | ("state", "--state") => return self.states(value, not),
            ("conntrack", "--ctorigdst") => {
                nets(value).map(|nets| Match::CtOrigDst { nets, port: None, not })
            }
            ("conntrack", "--ctorigdstport") => value.parse().ok().map(|port| Match::CtOrigDst {
                nets: Vec::new(),
                port: Some(port),
                not,
            }),
            ("mark", "--mark") => {
                masked(value).map(|(value, mask)| Match::Mark { value, mask, not })
            }
            ("addrtype", "--dst-type") => Some(address_type(value, not, true)),
            ("addrtype", "--src-type") => Some(address_type(value, not, false)),
            ("physdev", "--physdev-in") => Some(Match::PhysIn { name: value.to_owned(), not }),
            ("physdev", "--physdev-out") => Some(Match::PhysOut { name: value.to_owned(), not }),
            ("iprange", "--src-range") => nets(value).map(|nets| Match::Src { nets, not }),
            ("iprange", "--dst-range") => nets(value).map(|nets| Match::Dst { nets, not }),
            ("statistic", "--probability") if !not => {
                Some(Match::Random { probability: value.to_owned() })
            }
            _ => None,
        };
        found.is_some_and(|m| {
            self.rule.matches.push(m);
            true
        })
    }

    fn tcp_flags(&mut self, not: bool) -> Option<Match> {
        let mask = flags(self.next()?)?;
        let value = flags(self.next()?)?;
        Some(Match::TcpFlags { mask, value, not })
    }

    fn set(&mut self, not: bool) -> Option<Match> {
        let name = self.next()?.to_owned();
        let dirs = self.next()?.split(',').map(str::to_owned).collect();
        Some(Match::Set { name, dirs, not })
    }

    /// `--mode nth --every N --packet P`: one of N connections.
    fn every(&mut self) -> Option<Match> {
        let n: u32 = self.next()?.parse().ok()?;
        Some(Match::Random { probability: (1.0 / f64::from(n.max(1))).to_string() })
    }

    /// `DNAT` and `SNAT` stand beside the states of conntrack, and any one of them is enough: the
    /// negation falls apart into separate conditions, the plain form does not.
    fn states(&mut self, value: &str, not: bool) -> bool {
        let mut states = Vec::new();
        let (mut has_dnat, mut has_snat) = (false, false);
        for word in value.split(',') {
            match word {
                "NEW" => states.push(Stateful::New),
                "ESTABLISHED" => states.push(Stateful::Established),
                "RELATED" => states.push(Stateful::Related),
                "INVALID" => states.push(Stateful::Invalid),
                "UNTRACKED" => states.push(Stateful::Untracked),
                "DNAT" => has_dnat = true,
                "SNAT" => has_snat = true,
                _ => return false,
            }
        }
        let kinds = usize::from(!states.is_empty()) + usize::from(has_dnat) + usize::from(has_snat);
        if !not && kinds > 1 {
            return false;
        }
        let matches = &mut self.rule.matches;
        if !states.is_empty() {
            matches.push(Match::CtState { states, not });
        }
        if has_dnat {
            matches.push(Match::CtDnat { not });
        }
        if has_snat {
            let words = if not { "! --ctstate SNAT" } else { "--ctstate SNAT" };
            matches.push(Match::Other(words.to_owned()));
        }
        true
    }

    /// An option that is not modelled, with its values, in its own words.
    fn other(&mut self, not: bool) {
        let mut words = vec![self.module.as_str()];
        words.extend(not.then_some("!"));
        words.extend(self.words.get(self.at).map(String::as_str));
        self.at += 1;
        while let Some(word) = self.words.get(self.at) {
            let is_value = word.parse::<f64>().is_ok() || !(word.starts_with('-') || word == "!");
            if !is_value {
                break;
            }
            words.push(word);
            self.at += 1;
        }
        let text = words.join(" ").trim().to_owned();
        self.rule.matches.push(Match::Other(text));
    }
}

fn ranges(list: &str) -> Option<Vec<(u16, u16)>> {
    list.split(',').map(port_range).collect()
}

/// `8`, `8/0`, `any`.
fn icmp(value: &str, not: bool) -> Option<Match> {
    let (kind, code) = match value.split_once('/') {
        Some((kind, code)) => (kind, Some(code.parse().ok()?)),
        None => (value, None),
    };
    Some(Match::Icmp { kind: kind.parse().ok()?, code, not })
}

/// `0x4000/0x4000`, `0x1`.
fn masked(word: &str) -> Option<(u32, u32)> {
    match word.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(word)?, u32::MAX)),
    }
}

fn address_type(value: &str, not: bool, is_dst: bool) -> Match {
    let kinds: Vec<String> = value.split(',').map(str::to_ascii_lowercase).collect();
    match (value, is_dst) {
        ("LOCAL", true) => Match::DstLocal { not },
        ("LOCAL", false) => Match::SrcLocal { not },
        (_, true) => Match::DstType { kinds, not },
        (_, false) => Match::SrcType { kinds, not },
    }
}

fn flags(list: &str) -> Option<u8> {
    list.split(',').try_fold(0, |sum, word| {
        Some(
            sum | match word {
                "NONE" => 0,
                "FIN" => 0x01,
                "SYN" => 0x02,
                "RST" => 0x04,
                "PSH" => 0x08,
                "ACK" => 0x10,
                "URG" => 0x20,
                "ALL" => 0x3f,
                _ => return None,
            },
        )
    })
}

/// Targets that leave the packet's way as it is.
const NEUTRAL: [&str; 19] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNSECMARK",
    "DSCP",
    "ECN",
    "HL",
    "IDLETIMER",
    "LED",
    "LOG",
    "NFLOG",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TOS",
    "TRACE",
    "TTL",
];

fn target(name: &str, options: &[String], is_chain: &dyn Fn(&str) -> bool) -> Target {
    let value = |option: &str| {
        let at = options.iter().position(|o| o == option)?;
        options.get(at + 1).map(String::as_str)
    };
    let has = |option: &str| options.iter().any(|o| o == option);
    let other = || {
        let words: Vec<&str> =
            std::iter::once(name).chain(options.iter().map(String::as_str)).collect();
        Target::Other(words.join(" "))
    };
    match name {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "REJECT" => {
            Target::Reject(value("--reject-with").unwrap_or("icmp-port-unreachable").to_owned())
        }
        "DNAT" => {
            let (addr, port) = value("--to-destination").map_or((None, None), endpoint);
            Target::Dnat { addr, port }
        }
        "SNAT" => {
            let (addr, port) = value("--to-source").map_or((None, None), endpoint);
            Target::Snat { addr, port }
        }
        "MASQUERADE" => Target::Masquerade,
        "REDIRECT" => Target::Redirect { port: value("--to-ports").and_then(|p| p.parse().ok()) },
        "MARK" => match value("--set-xmark").and_then(masked) {
            Some((value, mask)) => Target::SetMark { value, mask },
            None => match value("--set-mark").and_then(masked) {
                Some((value, mask)) => Target::SetMark { value, mask: mask | value },
                None => other(),
            },
        },
        "CT" if has("--notrack") => Target::Notrack,
        "CT" => Target::Continue,
        "NOTRACK" => Target::Notrack,
        "NFQUEUE" | "QUEUE" => Target::Queue,
        "CONNMARK" if !has("--restore-mark") => Target::Continue,
        _ if NEUTRAL.contains(&name) => Target::Continue,
        _ if is_chain(name) => Target::Jump(name.to_owned()),
        _ => other(),
    }
}
