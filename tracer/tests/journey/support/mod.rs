//! Scenario files: events and expectations as text.
//!
//! ```text
//! packet NAME = icmp 10.244.1.2 > 10.244.1.3 echo=8 id=7 seq=1 ip_id=100
//! packet NAME = tcp|udp A:PORT > B:PORT [flags=S seq= ack= data= ip_id= frag=OFFSET[+]]
//! packet NAME = arp A > B op=1 | icmp A > B error=3/1 quote=NAME | vxlan A > B vni=1 inner=NAME
//! at MICROSECONDS JOURNEY PROBE NETNS[/DEV] [HOOK] [PACKET [=> PACKET]] [KEY=VALUE | FLAG]…
//! now MICROSECONDS            hands out what is over by then; the end of the file flushes
//! expect JOURNEY              followed by indented lines, see `expect.rs`
//! ```
//! The probe `nf` makes the first and the last function of a hook; `lose N` loses events.

pub(crate) mod expect;
pub(crate) mod network;
pub(crate) mod packet;
pub(crate) mod script;

use std::{collections::BTreeMap, fs, path::Path};

use pkttrace::{
    event::Event,
    journey::{Builder, Names, Options},
    report::{Context, Journey},
};
use script::Script;

/// Drop reasons and functions of a scenario, numbered as they come.
#[derive(Default)]
pub(crate) struct Kernel {
    reasons: BTreeMap<u32, String>,
    symbols: BTreeMap<u64, String>,
}

impl Kernel {
    pub(crate) fn reason(&mut self, name: &str) -> u32 {
        let number = 100 + self.reasons.len() as u32;
        let known = self.reasons.iter().find(|(_, n)| *n == name).map(|(number, _)| *number);
        known.unwrap_or_else(|| {
            self.reasons.insert(number, name.to_owned());
            number
        })
    }

    pub(crate) fn address(&mut self, function: &str) -> u64 {
        let address = 0xffff_ffff_8100_0000 + self.symbols.len() as u64 * 64;
        self.symbols.insert(address, format!("{function}+0x1f"));
        address
    }
}

impl Names for Kernel {
    fn drop_reason(&self, reason: u32) -> Option<String> {
        self.reasons.get(&reason).cloned()
    }

    fn gives(&self, reason: &str) -> bool {
        self.reasons.values().any(|name| name == reason)
    }

    fn symbol(&self, address: u64) -> Option<String> {
        self.symbols.get(&address).cloned()
    }
}

/// The value of `KEY=` among words.
pub(crate) fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The number after `KEY=`, else 0.
pub(crate) fn number<T: std::str::FromStr + Default>(words: &[&str], key: &str) -> T {
    value(words, key).map_or_else(T::default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{key}={text} is no number"))
    })
}

/// Text of a scenario file.
pub(crate) fn scenario(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(file);
    fs::read_to_string(path).expect("the scenario is readable")
}

/// The journeys of a scenario, in the order in which they are handed out.
pub(crate) fn play(text: &str) -> Vec<Journey> {
    let state = network::cluster();
    let context = Context {
        node: "lab".to_owned(),
        clock_offset_ns: 1_700_000_000_000_000_000,
        ..Context::default()
    };
    let mut script = Script::default();
    let mut builder = Builder::new(Options::default());
    let mut finished = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["packet", name, "=", ref description @ ..] => {
                let packet = packet::build(description, &script.packets);
                script.packets.insert(name.to_owned(), packet);
            }
            ["at", ref event @ ..] => {
                for record in script.events(&state, event) {
                    builder.push(Event::decode(&record).expect("a record"));
                }
            }
            ["now", micros] => {
                let now = micros.parse::<u64>().expect("microseconds") * 1000;
                finished.extend(builder.take_finished(now, &state, &script.kernel));
            }
            _ => {}
        }
    }
    finished.extend(builder.flush(&state, &script.kernel));
    assert_eq!(builder.open_count(), 0);
    finished.iter().map(|j| Journey::from(j, &context)).collect()
}

/// The records of a scenario in the order of their time, and the kernel they come from.
pub(crate) fn records(text: &str) -> (Vec<Vec<u8>>, Kernel) {
    let state = network::cluster();
    let mut script = Script::default();
    let mut records = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["packet", name, "=", ref description @ ..] => {
                let packet = packet::build(description, &script.packets);
                script.packets.insert(name.to_owned(), packet);
            }
            ["at", ref event @ ..] => records.extend(script.events(&state, event)),
            _ => {}
        }
    }
    (records, script.kernel)
}
