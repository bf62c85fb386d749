//! A node's reply as the relay follows it: packet heads found in a stream, and what they mean. How the stream is cut makes
//! no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::wire::Capabilities;
use spillway::wire::command::Expect;
use spillway::wire::reply::{ReplyTracker, Step};
use spillway::wire::walk::{Next, Walker};
use spillway_fuzz::{bounded, capabilities, part};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let (negotiated, [kind]) = (capabilities(&mut rest), part(&mut rest));
    let cuts: [u8; 4] = part(&mut rest);
    let kinds = [
        Expect::Packet,
        Expect::Results,
        Expect::Fields,
        Expect::Rows,
        Expect::Prepared,
        Expect::Nothing,
        Expect::Opaque,
    ];
    let expect = kinds[usize::from(kind) % kinds.len()];
    let whole = bounded(input, || steps(rest, negotiated, expect, &[usize::MAX]));
    let lengths = cuts.map(|cut| 1 + usize::from(cut % 64));
    let cut = bounded(input, || steps(rest, negotiated, expect, &lengths));
    assert_eq!(whole, cut, "how the bytes are cut");
});

/// Every packet's length, number and meaning, up to the first that is malformed, and what was left over at the end.
fn steps(
    stream: &[u8],
    negotiated: Capabilities,
    expect: Expect,
    lengths: &[usize],
) -> (Vec<(usize, u8, String)>, usize) {
    let mut tracker = ReplyTracker::new(negotiated);
    tracker.begin(expect);
    let (mut walker, mut found) = (Walker::default(), Vec::new());
    let (mut held, mut fed) = (Vec::new(), 0);
    for length in lengths.iter().cycle() {
        if fed == stream.len() {
            break;
        }
        let now = (*length).min(stream.len() - fed);
        held.extend_from_slice(&stream[fed..fed + now]);
        fed += now;
        let mut at = 0;
        loop {
            match walker.next(&held, at, |len, first| tracker.needs(len, first)) {
                Next::Head(head) => {
                    let needed = tracker.needs(head.len, head.payload.first().copied().unwrap_or_default());
                    assert!(head.payload.len() >= needed.min(head.len), "less than was asked for");
                    // No more than that: what is said must not depend on what happens to be there.
                    let meant = tracker.packet(head.len, &head.payload[..needed.min(head.len)]);
                    found.push((head.len, head.sequence, format!("{meant:?}")));
                    match meant {
                        Err(_) => return (found, 0),
                        Ok(Step::FileRequest) => tracker.file_sent(),
                        Ok(Step::Done(_)) => {
                            assert!(tracker.is_idle());
                            tracker.begin(expect);
                        }
                        Ok(Step::More) => {}
                    }
                    at = walker.enter(&head);
                }
                Next::Stop(end) => {
                    assert!(end <= held.len());
                    held.drain(..end);
                    break;
                }
            }
        }
    }
    (found, held.len())
}
