//! From what the rules propose to what is printed: commands that are proved, and advice.

use super::argv::{Argv, clean};
use super::prove::Proof;
use super::{Step, words};
use crate::diagnose::{Case, Finding, Severity};

/// A remedy as a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The asked flow is clear on the model with it, and no flow that works now stops working.
    pub proved: bool,
    /// What it changes, in a sentence.
    pub effect: String,
}

/// Writes the commands and the advice of each finding: of several ways to heal it, the narrowest
/// that is proved.
pub fn conclude(case: &Case<'_>, findings: &mut [Finding]) {
    settle(case, findings, Proof::of);
}

/// The same where what was asked works, only slowly: nothing that works may stop working.
pub fn conclude_working(case: &Case<'_>, findings: &mut [Finding]) {
    settle(case, findings, Proof::of_working);
}

fn settle<'a>(
    case: &'a Case<'a>,
    findings: &mut [Finding],
    proof: impl FnOnce(&'a Case<'a>) -> Proof<'a>,
) {
    if findings.iter().all(|f| !f.has_remedy()) {
        for finding in findings {
            write(case, finding, false);
        }
        return;
    }
    let proof = proof(case);
    let proved = prove(&proof, findings);
    for (finding, is_proved) in findings.iter_mut().zip(proved) {
        write(case, finding, is_proved);
    }
}

/// Which findings' steps are proved, each by itself or as one of the fewest that heal together.
fn prove(proof: &Proof<'_>, findings: &mut [Finding]) -> Vec<bool> {
    let mut proved = vec![false; findings.len()];
    let mut open: Vec<usize> = Vec::new();
    for (at, finding) in findings.iter_mut().enumerate() {
        let narrower = std::mem::take(&mut finding.narrower);
        let is_good = |steps: &[Step]| proof.heals(steps) && !proof.harms(steps);
        let whole = |steps: &Vec<Step>| {
            let steps =
                proof.completed(steps).or_else(|| proof.heals(steps).then(|| steps.clone()))?;
            (!proof.harms(&steps)).then_some(steps)
        };
        let is_loud = finding.severity != Severity::Info;
        if let Some(steps) = narrower.iter().filter(|_| is_loud).find_map(whole) {
            replace(finding, &steps);
            proved[at] = true;
        } else if finding.has_remedy() && is_loud {
            proved[at] = is_good(&finding.steps);
            // Together with others, the narrowest is tried first too.
            if !proved[at] && finding.severity == Severity::Error {
                open.push(at);
            }
        }
    }
    if proved.contains(&true) || open.len() < 2 {
        return proved;
    }
    for at in fewest(proof, findings, open) {
        proved[at] = true;
    }
    proved
}

/// Of several causes, the fewest that heal when all of them are mended; none where they do not.
fn fewest(proof: &Proof<'_>, findings: &[Finding], open: Vec<usize>) -> Vec<usize> {
    let steps = |set: &[usize]| -> Vec<Step> {
        set.iter().flat_map(|at| findings[*at].steps.iter().cloned()).collect()
    };
    let mut set: Vec<usize> =
        open.into_iter().filter(|at| !proof.harms(&findings[*at].steps)).collect();
    if !proof.heals(&steps(&set)) {
        return Vec::new();
    }
    for at in set.clone().into_iter().rev() {
        let without: Vec<usize> = set.iter().copied().filter(|other| *other != at).collect();
        if !without.is_empty() && proof.heals(&steps(&without)) {
            set = without;
        }
    }
    set
}

/// The commands of a finding become these; the advice around them stays.
fn replace(finding: &mut Finding, steps: &[Step]) {
    finding.steps.retain(|step| step.remedy().is_none());
    finding.steps.extend(steps.iter().cloned());
}

fn write(case: &Case<'_>, finding: &mut Finding, is_proved: bool) {
    (finding.remedies, finding.fix) = (Vec::new(), Vec::new());
    // Half of what belongs together heals nothing.
    let is_whole = finding.steps.iter().all(|step| match step {
        Step::Do(netns, remedy) => words::command(case.state, *netns, remedy).is_some(),
        Step::Advise(_) => true,
    });
    for step in &finding.steps {
        let line = match step {
            Step::Advise(text) => Some(advice(text)),
            Step::Do(netns, remedy) => {
                let effect = clean(&words::effect(case.state, *netns, remedy));
                match words::command(case.state, *netns, remedy) {
                    Some(argv) => {
                        let proved = is_proved && is_whole;
                        let line = shown(&argv, proved);
                        let command = Command { argv: owned(&argv), proved, effect };
                        // Two causes may ask for the same.
                        if !finding.remedies.iter().any(|c| c.argv == command.argv) {
                            finding.remedies.push(command);
                        }
                        line
                    }
                    None => Some(format!("# no command can name it; what is to be done {effect}")),
                }
            }
        };
        if let Some(line) = line.filter(|l| !finding.fix.contains(l)) {
            finding.fix.push(line);
        }
    }
}

fn owned(argv: &Argv) -> Vec<String> {
    argv.words().into_iter().flatten().map(str::to_owned).collect()
}

fn shown(argv: &Argv, is_proved: bool) -> Option<String> {
    let line = argv.line()?;
    Some(if is_proved { line } else { format!("# not proved to heal it without harm: {line}") })
}

/// A line that no shell takes for a command, whatever is in it.
fn advice(text: &str) -> String {
    let text = clean(text);
    if text.starts_with('#') { text } else { format!("# {text}") }
}
