//! Lines of the console, which come before its password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::console::{LONGEST_LINE, Line, Lines};
use spillway_fuzz::bounded;

fuzz_target!(|input: &[u8]| {
    bounded(input, || {
        let mut lines = Lines::default();
        let mut found: Vec<Line> = input.iter().filter_map(|byte| lines.push(*byte)).collect();
        found.extend(lines.finish());
        let mut bytes = 0;
        for line in &found {
            let Line::Bytes(line) = line else { continue };
            assert!(line.len() <= LONGEST_LINE && !line.contains(&b'\n') && !line.contains(&b'\r'));
            bytes += line.len();
        }
        assert!(bytes <= input.len() && found.len() <= input.len());
        // What has no telnet in it is the same when it is written as telnet writes it.
        if !input.contains(&255) {
            let mut lines = Lines::default();
            let telnet = input.iter().flat_map(|byte| [255, 241, *byte]);
            let mut again: Vec<Line> = telnet.filter_map(|byte| lines.push(byte)).collect();
            again.extend(lines.finish());
            assert_eq!(again, found);
        }
    });
});
