//! What `pkttrace diagnose` said, and what can be claimed about it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::binary;

/// Runs `pkttrace diagnose` with these arguments, however it ends.
///
/// # Panics
///
/// If it cannot be started.
#[must_use]
pub fn diagnose(args: &[&str]) -> Output {
    Command::new(binary()).arg("diagnose").args(args).output().expect("diagnose starts")
}

/// One answer, as JSON.
#[derive(Debug)]
pub struct Diagnosis {
    /// All of it.
    pub json: Value,
    code: Option<i32>,
    asked: String,
}

impl Diagnosis {
    /// Asks; `-o json` is added.
    ///
    /// # Panics
    ///
    /// If the answer is not one object on one line.
    #[must_use]
    pub fn of(args: &[&str]) -> Self {
        let output = diagnose(&[args, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(text.lines().count(), 1, "one object on one line: {text}{stderr}");
        let json = serde_json::from_str(&text).expect("JSON");
        Self { json, code: output.status.code(), asked: args.join(" ") }
    }

    /// The root cause.
    #[must_use]
    pub fn first(&self) -> &Value {
        &self.json["findings"][0]
    }

    /// Ids of all that is not merely worth knowing.
    #[must_use]
    pub fn loud(&self) -> Vec<&str> {
        let findings = self.json["findings"].as_array().into_iter().flatten();
        let loud = findings.filter(|f| f["severity"] != "info");
        loud.map(|f| f["id"].as_str().unwrap_or_default()).collect()
    }

    /// Asserts that an answer came and nothing is wrong.
    ///
    /// # Panics
    ///
    /// If something is.
    pub fn assert_healthy(&self) {
        let Self { json, code, asked } = self;
        assert_eq!((&json["healthy"], *code), (&Value::Bool(true), Some(0)), "{asked}: {json:#}");
        assert!(self.loud().is_empty(), "{asked}: {json:#}");
        let probes = json["probes"].as_array().expect("probes");
        assert!(probes.iter().any(|p| p["answered"].as_u64() > Some(0)), "{asked}: {json:#}");
    }

    /// Asserts what is named first, as an error, and the namespace that it lies in.
    ///
    /// # Panics
    ///
    /// If it is something else, elsewhere, or without evidence.
    pub fn assert_first(&self, id: &str, netns: &str) -> &Self {
        let Self { json, code, asked } = self;
        let first = self.first();
        let found = (&first["id"], &first["where"]["netns"], &first["severity"]);
        let wanted = (&id.into(), &netns.into(), &"error".into());
        assert_eq!(found, wanted, "{asked}: {json:#}");
        assert_eq!((&json["healthy"], *code), (&Value::Bool(false), Some(1)), "{asked}");
        assert!(!first["evidence"].as_array().expect("evidence").is_empty(), "{asked}: {json:#}");
        self
    }

    /// Asserts that an answer came, and that this and nothing else is a warning.
    ///
    /// # Panics
    ///
    /// If it is otherwise, elsewhere, or without evidence.
    pub fn assert_warned(&self, id: &str, netns: &str) -> &Self {
        let Self { json, code, asked } = self;
        assert_eq!((&json["healthy"], *code), (&Value::Bool(true), Some(0)), "{asked}: {json:#}");
        assert_eq!(self.loud(), [id], "{asked}: {json:#}");
        let first = self.first();
        let found = (&first["severity"], &first["where"]["netns"]);
        assert_eq!(found, (&"warning".into(), &netns.into()), "{asked}: {json:#}");
        assert!(!first["evidence"].as_array().expect("evidence").is_empty(), "{asked}: {json:#}");
        self
    }

    /// Runs the first finding's fix as it was printed.
    ///
    /// # Panics
    ///
    /// If a command fails.
    pub fn run_fix(&self) {
        for command in self.first()["fix"].as_array().expect("fix") {
            let command = command.as_str().expect("a command");
            let status = Command::new("sh").args(["-c", command]).status().expect("sh starts");
            assert!(status.success(), "{}: {command}", self.asked);
        }
    }
}
