//! Diagnosis of traffic that others make.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep_until, timeout};

use super::{INTERRUPTED, Node, Outcome, Watch, Watched, ask, check, seen};
use crate::cli::filter::FilterArgs;
use crate::config::Config;
use crate::diagnose::case::{Case, Counters};
use crate::diagnose::engine::{Diagnosis, Verdict, conclude, join};
use crate::diagnose::{Finding, view};
use crate::net::{Inum, NetworkState};
use crate::privileges;
use crate::ready;
use crate::signals;
use crate::source::{Capture, Captured};

/// Unanswered questions that are looked into.
const FAILED: usize = 32;
/// How often the ring is looked at.
const TICK: Duration = Duration::from_millis(2);
/// How long reading the node again may take when a signal has ended the watch.
const HASTE: Duration = Duration::from_millis(250);
/// And all that follows from it.
const CONCLUDING: Duration = Duration::from_secs(3);

/// Watches and concludes. The watch may be ended early; once it has begun, there is a result.
///
/// # Errors
///
/// What keeps it from running, in one line.
pub async fn passive(watch: &Watch, ended: impl Future<Output = i32>) -> Result<Outcome> {
    tokio::pin!(ended);
    let started = tokio::select! {
        started = start(watch) => started?,
        _ = &mut ended => bail!(INTERRUPTED),
    };
    let (node, mut capture) = started;
    let limit = watch.duration.as_secs_f64();
    (watch.say)(&format!("watching for {limit} s, Ctrl-C ends it early"));
    let (mut next, until) = (Instant::now(), Instant::now() + watch.duration);
    let mut is_ended = false;
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => { is_ended = true; break }
            () = sleep_until(until) => break,
            () = capture.follow_change() => {}
            () = sleep_until(next) => {
                capture.turn();
                next = Instant::now() + TICK;
            }
        }
    }
    let until_ns = crate::bpf::monotonic_ns();
    (watch.say)("reading the configuration again, and concluding");
    let Captured { journeys, mut state, .. } = capture.end().await?;
    if !is_ended {
        node.details(&mut state).await;
    } else if timeout(HASTE, node.details(&mut state)).await.is_err() {
        // As it was when the watch began.
        state = node.state.clone();
    }
    let what = match watch.filter == FilterArgs::default() {
        true => Watched::Everything,
        false => Watched::Chosen { until_ns },
    };
    Ok(super::judge(None, Vec::new(), journeys, state, (&node, what)))
}

/// Reads the node and attaches everything.
async fn start(watch: &Watch) -> Result<(Node, Capture)> {
    privileges::check(privileges::Command::Watch, false)?;
    let view: Vec<_> = watch.view.iter().map(|name| ("--view", name.as_str())).collect();
    let (owners, view) = super::owners(&view).await?;
    (watch.say)("reading the configuration of this node");
    let node = Node::read(owners, view.first().copied(), None, None).await?;
    let capture = Capture::start(&Config::capture(&watch.filter)?).await?;
    signals::flushing(Some(CONCLUDING));
    if let Some(path) = &watch.ready_file {
        ready::say(path)?;
    }
    privileges::shed();
    Ok((node, capture))
}

/// Every question that was not answered is a case of its own, as if it had been sent to find out.
/// What is left over is looked at for drops.
pub(super) fn judge(case: &mut Case<'_>, until_ns: u64) -> Diagnosis {
    let questions = seen::questions(case, until_ns);
    let count = |is: fn(&seen::Question) -> bool| questions.iter().filter(|q| is(q)).count();
    let (asked, failed) = (questions.len(), count(seen::Question::has_failed));
    let mut rest: Vec<bool> = vec![true; case.flows.len()];
    let mut before = std::mem::take(&mut case.before);
    let view: BTreeSet<Inum> = case.view.iter().copied().collect();
    // What is connected with who asked, as of the question before: most are asked side by side.
    let mut around: Option<(BTreeSet<Inum>, NetworkState)> = None;
    let mut found: Vec<Vec<Finding>> = Vec::new();
    for question in questions.into_iter().filter(seen::Question::has_failed).take(FAILED) {
        question.flows.iter().for_each(|at| rest[*at] = false);
        let linked = super::linked(case.state, question.from(), &view);
        let near = super::near(case.state, &linked, &view);
        let (_, state) = match around.take().filter(|(known, _)| *known == near) {
            Some(same) => around.insert(same),
            None => {
                let mut state = case.state.clone();
                view::restrict_state(&mut state, &near);
                around.insert((near, state))
            }
        };
        found.push(one(case, state, question, &mut before).findings);
    }
    let mut rest = rest.into_iter();
    case.flows.retain(|_| rest.next().unwrap_or(true));
    case.before = before;
    case.ways = check::unanswered(case);
    let mut diagnosis = conclude(case);
    found.push(std::mem::take(&mut diagnosis.findings));
    diagnosis.findings = join(found);
    diagnosis.verdict = Verdict::of(&diagnosis.findings, asked > failed);
    diagnosis.checked.insert(
        0,
        match (asked, failed) {
            (0, _) => "no connection was seen to begin that the filters let through".to_owned(),
            (n, 0) => format!("{n} connections were seen to begin, and got an answer"),
            (n, failed) => format!("{n} connections were seen to begin, {failed} of them in vain"),
        },
    );
    diagnosis
}

/// One question, with its own packets.
fn one(
    all: &Case<'_>,
    state: &NetworkState,
    question: seen::Question,
    before: &mut Counters,
) -> Diagnosis {
    let seen::Question { asks, target, probes, flows } = question;
    let flows = flows.iter().filter_map(|at| all.flows.get(*at)).cloned();
    let mut case = Case { state, ..all.part(flows) };
    (case.target, case.probes) = (Some(target), probes);
    case.before = std::mem::take(before);
    case.ways = asks.iter().flat_map(|(purpose, ask)| ask::both(&case, ask, *purpose)).collect();
    let diagnosis = conclude(&case);
    *before = std::mem::take(&mut case.before);
    diagnosis
}
