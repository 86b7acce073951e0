//! stub

/// stub
#[derive(Debug)]
pub struct Actor;
/// stub
#[derive(Debug)]
pub struct Settings;
