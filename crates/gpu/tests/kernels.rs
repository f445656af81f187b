//! Every kernel against float64 on the emulator: values and gradients of every class of shapes, in every precision.

use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn every_kernel_agrees_with_float64() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = root.join("../../target/tmp/kernels-test");
    let mut test = Command::new("sh");
    let output = test.arg(root.join("emulator/test.sh")).arg(&out).output();
    let output = output.unwrap();
    if output.status.code() == Some(77) {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no C++ compiler, so that no kernel was checked"
        );
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let misses: Vec<&str> = said.lines().filter(|l| !l.starts_with("ok")).collect();
    assert!(
        output.status.success(),
        "{}\n{}",
        misses.join("\n"),
        String::from_utf8_lossy(&output.stderr)
    );
}
