//! What the fuzz targets call: the bodies, which `make check` runs over the committed corpora, too.

#[path = "../bodies/mod.rs"]
mod bodies;

/// Runs one target's body. Panics when something that is promised does not hold.
pub fn run(target: &str, bytes: &[u8]) {
    static HOOK: std::sync::Once = std::sync::Once::new();
    // libFuzzer's own hook aborts at once, even where a panic is caught: jq's compiler is used that way. One that is not
    // caught ends the process all the same.
    HOOK.call_once(|| drop(std::panic::take_hook()));
    let (_, body) = bodies::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    body(bytes);
}
