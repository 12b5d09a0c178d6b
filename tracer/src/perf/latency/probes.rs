//! Which probes a profile takes, and attaching them in an order that leaves nothing half seen.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use tracer_common::perf::PerfConfig;

use crate::bpf::PerfSide;
use crate::cli::latency::Profile;
use crate::kernel::btf::KernelBtf;
use crate::net::{Inum, NetworkState};
use crate::report::Unavailable;

/// Program and tracepoint of what ends packets: first, so that none is ended unseen.
const ENDS: [(&str, &str); 2] = [("lat_kfree", "kfree_skb"), ("lat_consume", "consume_skb")];
/// Of where packets wait.
const WAITS: [(&str, &str); 3] = [
    ("lat_read", "skb_copy_datagram_iovec"),
    ("lat_rx", "netif_receive_skb"),
    ("lat_xmit", "net_dev_start_xmit"),
];
/// Of queueing disciplines: devices without one never come there.
const QUEUES: [(&str, &str); 2] =
    [("lat_dequeue", "qdisc_dequeue"), ("lat_enqueue", "qdisc_enqueue")];
/// Before every queueing discipline, whether there is one or not.
const QUEUE: (&str, &str) = ("lat_queue", "net_dev_queue");

/// What TCP sends again: rare, so attached all the time.
const AGAIN: (&str, &str) = ("retransmit", "tcp_retransmit_skb");

/// The probes of a profile.
pub(super) struct Probes {
    tracepoints: Vec<&'static str>,
    has_hooks: bool,
    sees_queues: bool,
    /// Namespaces whose hooks are attached.
    hooked: BTreeSet<Inum>,
    unavailable: Vec<Unavailable>,
}

impl Probes {
    /// Tells the kernel side what the profile is.
    pub(super) fn configure(profile: Profile, config: &mut PerfConfig) {
        config.begin_at_xmit = u8::from(profile == Profile::Waits);
        config.begin_at_hooks = u8::from(profile == Profile::Netfilter);
        config.whole_at_xmit = u8::from(profile == Profile::Path);
    }

    /// Loads what this kernel has of it.
    pub(super) fn load(profile: Profile, side: &mut PerfSide, btf: &KernelBtf) -> Result<Self> {
        let mut probes = Self {
            tracepoints: Vec::new(),
            has_hooks: false,
            sees_queues: false,
            hooked: BTreeSet::new(),
            unavailable: Vec::new(),
        };
        let mut wanted = ENDS.to_vec();
        if profile != Profile::Netfilter {
            wanted.extend(WAITS);
            let has_queues =
                QUEUES.iter().all(|(_, tracepoint)| btf.tracepoint(tracepoint).is_some());
            probes.sees_queues = has_queues;
            if has_queues {
                wanted.extend(QUEUES);
            }
            if profile == Profile::Path || !has_queues {
                wanted.push(QUEUE);
            }
        }
        for (program, tracepoint) in wanted {
            match side.load_tracepoint(btf, program, tracepoint) {
                Ok(()) => probes.tracepoints.push(program),
                Err(why) if why.contains("not permitted") => bail!(why),
                Err(why) => probes.missing(&format!("tp:{tracepoint}"), why),
            }
        }
        if profile != Profile::Netfilter
            && let Err(why) = side.load_socket()
        {
            probes.missing("cg:ingress", why);
        }
        if profile != Profile::Waits {
            match side.load_hooks() {
                Ok(()) => probes.has_hooks = true,
                Err(why) if profile == Profile::Netfilter => bail!("--profile netfilter: {why}"),
                Err(why) => probes.missing("nf:hooks", why),
            }
        }
        let again = side.load_tracepoint(btf, AGAIN.0, AGAIN.1);
        match again.and_then(|()| side.attach_for_good(AGAIN.0).map_err(|e| e.to_string())) {
            Ok(()) => {}
            Err(why) => probes.missing(&format!("tp:{}", AGAIN.1), why),
        }
        Ok(probes)
    }

    fn missing(&mut self, probe: &str, why: String) {
        self.unavailable.push(Unavailable { probe: probe.to_owned(), why });
    }

    /// Whether queueing disciplines are seen themselves (since 5.14).
    pub(super) fn sees_queues(&self) -> bool {
        self.sees_queues
    }

    pub(super) fn unavailable(&self) -> &[Unavailable] {
        &self.unavailable
    }

    /// Attaches everything.
    pub(super) fn attach(&mut self, side: &mut PerfSide, state: &NetworkState) -> Result<()> {
        self.hooked.clear();
        for program in &self.tracepoints {
            side.attach(program)?;
        }
        side.attach_socket()?;
        self.follow(side, state);
        Ok(side.begin_anew()?)
    }

    /// Attaches to the hooks of namespaces that are new.
    pub(super) fn follow(&mut self, side: &mut PerfSide, state: &NetworkState) {
        if !self.has_hooks {
            return;
        }
        for netns in state.netns.values() {
            if self.hooked.insert(netns.inum) {
                side.attach_hooks(netns);
            }
        }
    }
}
