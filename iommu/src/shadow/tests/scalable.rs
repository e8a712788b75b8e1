//! A shadow behind a unit in scalable mode: the guest's queue says what changed, as drivers do.

use super::*;
use crate::vtd::tests::scalable::{AW48, FIRST, PASS, SCALABLE, SECOND, Scalable};

struct Guest {
    rig: Scalable,
    host: Arc<Host>,
    shadow: Shadow,
}

impl Guest {
    /// A NIC with no PASID entry.
    fn new() -> Self {
        let rig = Scalable::with(VtdConfig {
            caching_mode: true,
            ..SCALABLE
        });
        rig.enable_wide_queue();
        let (host, shadow) = shadow_nic(&rig, ShadowLimits::default());
        shadow.replay().unwrap();
        rig.take_translations();
        Self { rig, host, shadow }
    }

    /// Follows all that was announced; gives the errors.
    fn follow(&self) -> Vec<ShadowError> {
        let told = self.rig.take_translations();
        let followed = told.into_iter().map(|change| self.shadow.follow(change));
        followed.filter_map(Result::err).collect()
    }

    /// Announces a PASID entry that was changed, as Linux does with caching mode.
    fn announce_entry(&self, domain: u16) -> Vec<ShadowError> {
        self.rig.forget_pasids(1, domain, 0);
        self.rig.forget_pasid(domain, 0);
        self.follow()
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        self.host.runs()
    }
}

const EVERYTHING: [(u64, u64); 2] = [(0, RAM as u64), (HIGH, HIGH_RAM as u64)];

#[test]
fn pass_through_is_identity() {
    let s = Guest::new();
    assert_eq!(s.runs(), []);
    s.rig.pass_through(NIC, 5);
    assert!(s.announce_entry(5).is_empty());
    assert_eq!(s.runs(), EVERYTHING);
    s.rig.poke(s.rig.pasid(NIC), 0);
    assert!(s.announce_entry(5).is_empty());
    assert_eq!(s.runs(), []);
}

#[test]
fn second_stage_tables_are_followed() {
    let s = Guest::new();
    let top = s.rig.second(NIC, 5);
    s.rig.map(top, 0x4000, 0x8000, RW);
    assert!(s.announce_entry(5).is_empty());
    assert_eq!(s.runs(), [(0x4000, 0x1000)]);
    s.rig.map(top, 0x5000, 0x1_0000, R);
    s.rig.map(top, 0x4000, 0, 0);
    s.rig.submit_wide(0x32 | 5 << 16, 0x4000 | 1);
    assert!(s.follow().is_empty());
    assert_eq!(s.runs(), [(0x5000, 0x1000)]);
    assert_eq!(s.host.reach(0x5000), Some((0x1_0000, false)));
    // Of another domain.
    s.rig.map(top, 0x5000, 0, 0);
    s.rig.submit_wide(0x22 | 6 << 16, 0);
    s.follow();
    assert_eq!(s.runs(), [(0x5000, 0x1000)]);
    s.rig.submit_wide(0x22 | 5 << 16, 0);
    s.follow();
    assert_eq!(s.runs(), []);
}

#[test]
fn a_device_is_followed_into_another_domain_by_every_granularity() {
    for (granularity, domain, pasid) in [(0, 5, 0), (1, 5, 0), (3, 0, 0)] {
        let s = Guest::new();
        let other = s.rig.second(NIC, 6);
        s.rig.map(other, 0x9000, 0x8000, RW);
        let top = s.rig.second(NIC, 5);
        s.rig.map(top, 0x4000, 0x8000, RW);
        s.announce_entry(5);
        assert_eq!(s.runs(), [(0x4000, 0x1000)]);
        s.rig.set_pasid(NIC, [other | SECOND | AW48 | 1, 6, 0]);
        s.rig.forget_pasids(granularity, domain, pasid);
        assert!(s.follow().is_empty());
        assert_eq!(s.runs(), [(0x9000, 0x1000)]);
    }
}

#[test]
fn a_context_entry_that_goes_takes_everything_along() {
    let s = Guest::new();
    let top = s.rig.second(NIC, 5);
    s.rig.map(top, 0x4000, 0x8000, RW);
    s.announce_entry(5);
    s.rig.poke(s.rig.context(NIC), 0);
    s.rig.forget_context(NIC);
    s.follow();
    assert_eq!(s.runs(), []);
}

#[test]
fn with_first_stage_tables_a_device_reaches_nothing_which_is_said_once() {
    let s = Guest::new();
    let second = s.rig.second(NIC, 5);
    s.rig.map(second, 0x4000, 0x8000, RW);
    s.announce_entry(5);
    assert_eq!(s.runs(), [(0x4000, 0x1000)]);
    let nested = || {
        s.rig.nested(NIC, 5);
    };
    let first = || {
        let top = s.rig.first(NIC, 5);
        s.rig.map_first(top, 0x4000, 0x8000, 7);
    };
    let kinds: [&dyn Fn(); 2] = [&first, &nested];
    for set in kinds {
        set();
        let errors = s.announce_entry(5);
        assert!(matches!(errors[..], [ShadowError::FirstStage { .. }]));
        let text = errors[0].to_string();
        assert!(text.starts_with("nic reaches nothing: "), "{text}");
        assert!(text.contains("second-stage") && text.contains("caching-mode=on"));
        assert_eq!(s.runs(), []);
        for _ in 0..3 {
            assert!(s.announce_entry(5).is_empty(), "said already");
        }
        s.rig.set_pasid(NIC, [second | SECOND | AW48 | 1, 5, 0]);
        assert!(s.announce_entry(5).is_empty());
        assert_eq!(s.runs(), [(0x4000, 0x1000)]);
    }
}

#[test]
fn devices_whose_entries_differ_have_no_space_in_common() {
    let s = Guest::new();
    s.rig.pass_through(NIC, 5);
    s.rig.set_pasid(DISK, [FIRST | 1, 5, 0]);
    s.rig.forget_pasids(3, 0, 0);
    s.follow();
    assert_eq!(s.runs(), EVERYTHING);
    s.shadow.set_requesters(vec![NIC, DISK]).unwrap();
    assert_eq!(s.runs(), []);
    s.rig.set_pasid(DISK, [PASS | AW48 | 1, 6, 0]);
    s.rig.forget_pasids(3, 0, 0);
    s.follow();
    assert_eq!(s.runs(), EVERYTHING);
}
