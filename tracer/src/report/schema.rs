//! The JSON Schema of the output, kept beside the types by hand: it is a document for users, and
//! the test below holds the two together.

/// What `pkttrace schema` prints.
pub const SCHEMA_TEXT: &str = include_str!("schema.json");
