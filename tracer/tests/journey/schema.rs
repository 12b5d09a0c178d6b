//! The JSON Schema and the types say the same: every scenario's report is valid, and has no member
//! that the schema does not know.

use pkttrace::report::{SCHEMA_TEXT, Summary, Unavailable};
use serde_json::Value;

use super::{scenarios, support};

#[test]
fn every_report_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(SCHEMA_TEXT).expect("the schema is JSON");
    for file in scenarios::ALL {
        for journey in support::play(&support::scenario(file)) {
            let value = serde_json::to_value(&journey).expect("serializes");
            conforms(&schema, &schema["$defs"]["journey"], &value, file);
        }
    }
    let mut summary = Summary::new();
    summary.probes.unavailable.push(Unavailable { probe: "a".to_owned(), why: "b".to_owned() });
    let value = serde_json::to_value(&summary).expect("serializes");
    conforms(&schema, &schema["$defs"]["summary"], &value, "summary");
}

/// The part of JSON Schema that the schema uses; unknown members count as errors here, although
/// readers are to ignore them.
fn conforms(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return conforms(root, &root["$defs"][name], value, at);
    }
    if let Some(either) = schema["anyOf"].as_array() {
        let filled = either.iter().find(|s| s["type"] != "null").expect("more than null");
        if !value.is_null() {
            conforms(root, filled, value, at);
        }
        return;
    }
    if let Some(expected) = schema.get("const") {
        return assert_eq!(value, expected, "{at}");
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value}");
    }
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = &schema["type"];
    let is_listed = types.as_array().is_some_and(|types| types.iter().any(|t| t == name));
    assert!(types == name || is_listed, "{at}: {value} is no {types}");
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(root, &schema["items"], item, &format!("{at}[{n}]"));
    }
    let Some(members) = value.as_object() else { return };
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(members.contains_key(key.as_str().unwrap_or("")), "{at}: no {key}");
    }
    for (key, member) in members {
        let at = format!("{at}.{key}");
        let schema = schema["properties"].get(key).unwrap_or_else(|| panic!("{at} is unknown"));
        conforms(root, schema, member, &at);
    }
}
