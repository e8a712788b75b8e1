mod fake;
mod random;
mod scalable;
mod whole;

use self::fake::Host;
use super::*;
use crate::vtd::tests::{CONFIG, DISK, HIGH, HIGH_RAM, NIC, R, RAM, RW, Rig, W};
use crate::vtd::{VtdConfig, offset};

/// A shadow of the NIC of a rig, with nothing in it, and the host's side of it.
fn shadow_nic(rig: &Rig, limits: ShadowLimits) -> (Arc<Host>, Shadow) {
    let host = Arc::new(Host::new(rig.memory.clone()));
    let shadow = Shadow::new(ShadowConfig {
        vtd: rig.vtd.clone(),
        name: "nic".into(),
        requesters: vec![NIC],
        memory: rig.memory.clone(),
        mapper: host.clone(),
        limits,
    });
    (host, shadow)
}

/// A shadowed NIC in domain 5.
struct Shadowed {
    rig: Rig,
    host: Arc<Host>,
    shadow: Shadow,
    top: u64,
}

impl Shadowed {
    /// With a unit that is off, and tables to be filled.
    fn off(limits: ShadowLimits) -> Self {
        Self::off_with(CONFIG, limits)
    }

    fn off_with(config: VtdConfig, limits: ShadowLimits) -> Self {
        let rig = Rig::with(VtdConfig {
            caching_mode: true,
            ..config
        });
        let top = rig.domain(NIC, 5);
        let (host, shadow) = shadow_nic(&rig, limits);
        Self {
            rig,
            host,
            shadow,
            top,
        }
    }

    fn on() -> Self {
        let this = Self::off(ShadowLimits::default());
        this.rig.enable();
        this
    }

    fn map(&self, iova: u64, gpa: u64, flags: u64) {
        self.rig.map(self.top, iova, gpa, flags);
    }

    /// What the guest announces after it has changed some pages.
    fn announce(&self, iova: u64, len: u64) -> Result<Followed, ShadowError> {
        self.shadow.follow(TranslationChange::Pages {
            domain: 5,
            iova,
            len,
        })
    }

    /// What the device reaches at an address: guest-physical, and whether it may write.
    fn reach(&self, iova: u64) -> Option<(u64, bool)> {
        self.host.reach(iova)
    }

    /// What the unit has recorded since: who does not reach what.
    fn faults(&self) -> Vec<(Bdf, u64)> {
        let faults = self.rig.take_faults().into_iter();
        faults
            .inspect(|fault| assert_eq!((fault.reason, fault.read), (0x07, true)))
            .map(|fault| (fault.source, fault.info))
            .collect()
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        self.host.runs()
    }
}

#[test]
fn identity_while_translation_is_off() {
    let s = Shadowed::off(ShadowLimits::default());
    let followed = s.shadow.replay().unwrap();
    assert_eq!(followed.mapped, (RAM + HIGH_RAM) as u64);
    assert_eq!(s.runs(), [(0, RAM as u64), (HIGH, HIGH_RAM as u64)]);
    assert_eq!(
        s.reach(0x1234_5000 % RAM as u64),
        Some((0x1234_5000 % RAM as u64, true))
    );
    assert_eq!(s.reach(HIGH + 0x3000), Some((HIGH + 0x3000, true)));
}

#[test]
fn turning_translation_on_leaves_what_the_domain_has() {
    let s = Shadowed::off(ShadowLimits::default());
    s.map(0x4000, 0x8000, RW);
    s.shadow.replay().unwrap();
    s.rig.enable();
    let followed = s.shadow.follow(TranslationChange::All).unwrap();
    assert_eq!(
        (followed.mapped, s.runs()),
        (0x1000, vec![(0x4000, 0x1000)])
    );
    s.rig.w32(offset::GCMD, 0);
    s.shadow.follow(TranslationChange::All).unwrap();
    assert_eq!(s.runs().len(), 2);
}

#[test]
fn a_pass_through_context_is_identity_up_to_its_width() {
    let s = Shadowed::on();
    s.rig.set_context(NIC, 2 << 2 | 1, 2);
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0, RAM as u64), (HIGH, HIGH_RAM as u64)]);
}

#[test]
fn protected_memory_is_not_mapped_without_tables() {
    let s = Shadowed::off(ShadowLimits::default());
    s.shadow.replay().unwrap();
    s.rig.w32(offset::PLMBASE, 0x40_0000);
    s.rig.w32(offset::PLMLIMIT, 0x40_0000);
    s.rig.w64(offset::PHMBASE, 1);
    s.rig.w64(offset::PHMLIMIT, HIGH + (1 << 20));
    s.rig.w64(offset::PHMBASE, HIGH + (1 << 20));
    s.rig.take_translations();
    s.rig.w32(offset::PMEN, 1 << 31);
    assert_eq!(s.rig.take_translations(), [TranslationChange::All]);
    s.shadow.follow(TranslationChange::All).unwrap();
    let runs = [
        (0, 0x40_0000),
        (0x50_0000, RAM as u64 - 0x50_0000),
        (HIGH, 1 << 20),
        (HIGH + (2 << 20), HIGH_RAM as u64 - (2 << 20)),
    ];
    assert_eq!(s.runs(), runs);
    s.rig.w32(offset::PMEN, 0);
    assert_eq!(s.rig.take_translations(), [TranslationChange::All]);
    s.shadow.follow(TranslationChange::All).unwrap();
    assert_eq!(s.shadow.mapped_bytes(), (RAM + HIGH_RAM) as u64);
}

#[test]
fn a_context_that_is_not_there_is_nothing() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.replay().unwrap();
    assert_eq!(s.runs().len(), 1);
    s.rig.poke(Rig::context_entry(NIC), 0);
    s.shadow
        .follow(TranslationChange::Requesters {
            source: NIC,
            function_mask: 0,
        })
        .unwrap();
    assert_eq!(s.runs(), []);
    assert_eq!(s.rig.take_faults(), [], "looking records nothing");
}

#[test]
fn contiguous_memory_is_one_mapping() {
    let s = Shadowed::on();
    for page in 0..300 {
        s.map(0x40_0000 + (page << 12), 0x10_0000 + (page << 12), RW);
    }
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0x40_0000, 300 << 12)]);
}

#[test]
fn large_pages_join_small_ones() {
    let s = Shadowed::on();
    let slot = s.rig.slot(s.top, 4, 2, 0x40_0000);
    s.rig.poke(slot, 0x80_0000 | 1 << 7 | RW);
    s.map(0x60_0000, 0xa0_0000, RW);
    s.map(0x3f_f000, 0x7f_f000, RW);
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0x3f_f000, 0x20_2000)]);
}

#[test]
fn permissions_and_gaps_part_runs() {
    let s = Shadowed::on();
    s.map(0x1000, 0x1000, RW);
    s.map(0x2000, 0x2000, R);
    s.map(0x3000, 0x3000, R);
    s.map(0x4000, 0x5000, R);
    s.map(0x6000, 0x7000, W);
    s.shadow.replay().unwrap();
    let runs = [
        (0x1000, 0x1000),
        (0x2000, 0x2000),
        (0x4000, 0x1000),
        (0x6000, 0x1000),
    ];
    assert_eq!(s.runs(), runs);
    assert_eq!(s.reach(0x2000), Some((0x2000, false)));
    assert_eq!(s.reach(0x6000), Some((0x7000, true)));
}

#[test]
fn what_a_table_above_denies_is_denied() {
    let s = Shadowed::on();
    s.map(0x1000, 0x1000, RW);
    s.map(0x2000, 0x2000, W);
    let slot = s.rig.slot(s.top, 4, 3, 0);
    s.rig.poke(slot, s.rig.peek(slot) & !W);
    s.shadow.replay().unwrap();
    assert_eq!(s.reach(0x1000), Some((0x1000, false)));
    assert_eq!(s.reach(0x2000), None);
}

#[test]
fn only_ram_is_mapped() {
    let s = Shadowed::on();
    s.map(0x1000, RAM as u64 - 0x1000, RW);
    s.map(0x2000, RAM as u64, RW);
    s.map(0x3000, 0xfee0_0000, RW);
    // 1 GiB with RAM at its beginning only.
    let slot = s.rig.slot(s.top, 4, 3, 1 << 30);
    s.rig.poke(slot, HIGH | 1 << 7 | RW);
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0x1000, 0x1000), (1 << 30, HIGH_RAM as u64)]);
}

#[test]
fn what_the_unit_would_fault_at_is_not_mapped() {
    let s = Shadowed::on();
    s.map(0x1000, 0x1000 | 1 << 62, RW);
    s.map(0x2000, 0x2000, RW);
    let slot = s.rig.slot(s.top, 4, 2, 0x40_0000);
    s.rig.poke(slot, 0x40_1000 | 1 << 7 | RW);
    s.map(0x60_0000, 0x2000, RW);
    let slot = s.rig.slot(s.top, 4, 2, 0x60_0000);
    s.rig.poke(slot, s.rig.peek(slot) | 1 << 11);
    s.rig.poke(s.rig.slot(s.top, 4, 2, 0x80_0000), 1 << 40 | RW);
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0x2000, 0x1000)]);
}

#[test]
fn addresses_of_interrupts_are_not_mapped() {
    let s = Shadowed::on();
    s.map(0xfedf_f000, 0x1000, RW);
    s.map(0xfee0_0000, 0x2000, RW);
    s.map(0xfeef_f000, 0x3000, RW);
    s.map(0xfef0_0000, 0x4000, RW);
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0xfedf_f000, 0x1000), (0xfef0_0000, 0x1000)]);
}

#[test]
fn what_is_announced_is_followed_and_nothing_else() {
    let s = Shadowed::on();
    s.shadow.replay().unwrap();
    s.map(0x4000, 0x8000, RW);
    s.map(0x9000, 0x9000, RW);
    s.announce(0x4000, 0x1000).unwrap();
    assert_eq!(s.runs(), [(0x4000, 0x1000)]);
    let other = TranslationChange::Domain(6);
    assert_eq!(s.shadow.follow(other).unwrap(), Followed::default());
    s.shadow.follow(TranslationChange::Domain(5)).unwrap();
    assert_eq!(s.runs(), [(0x4000, 0x1000), (0x9000, 0x1000)]);
}

#[test]
fn what_is_announced_apart_comes_down_apart() {
    let s = Shadowed::on();
    s.shadow.replay().unwrap();
    for page in 1..4 {
        s.map(page << 12, page << 12, RW);
        s.announce(page << 12, 0x1000).unwrap();
    }
    assert_eq!(s.runs().len(), 3);
    s.map(0x2000, 0, 0);
    let followed = s.announce(0x2000, 0x1000).unwrap();
    assert_eq!((followed.mapped, followed.unmapped), (0, 0x1000));
    assert_eq!(s.runs(), [(0x1000, 0x1000), (0x3000, 0x1000)]);
}

#[test]
fn a_mapping_that_is_cut_keeps_its_rest() {
    let s = Shadowed::on();
    for page in 1..9 {
        s.map(page << 12, page << 12, RW);
    }
    s.shadow.replay().unwrap();
    assert_eq!(s.runs(), [(0x1000, 0x8000)]);
    s.map(0x4000, 0, 0);
    s.announce(0x4000, 0x1000).unwrap();
    assert_eq!(s.runs(), [(0x1000, 0x3000), (0x5000, 0x4000)]);
}

#[test]
fn a_page_that_moved_or_lost_permission_is_mapped_anew() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.replay().unwrap();
    s.map(0x4000, 0x9000, RW);
    s.announce(0x4000, 0x1000).unwrap();
    assert_eq!(s.reach(0x4000), Some((0x9000, true)));
    s.map(0x4000, 0x9000, R);
    s.announce(0x4000, 0x1000).unwrap();
    assert_eq!(s.reach(0x4000), Some((0x9000, false)));
}

#[test]
fn a_change_that_is_none_does_nothing() {
    let s = Shadowed::on();
    for page in 1..9 {
        s.map(page << 12, page << 13, RW);
    }
    s.shadow.replay().unwrap();
    let calls = s.host.calls();
    s.announce(0, 0x10_0000).unwrap();
    s.shadow.follow(TranslationChange::All).unwrap();
    assert_eq!(s.host.calls(), calls);
}

#[test]
fn moving_to_another_domain_changes_everything() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.replay().unwrap();
    let other = s.rig.domain(NIC, 6);
    s.rig.map(other, 0x7000, 0x9000, RW);
    s.shadow
        .follow(TranslationChange::Requesters {
            source: NIC,
            function_mask: 0,
        })
        .unwrap();
    assert_eq!(s.runs(), [(0x7000, 0x1000)]);
    s.map(0x5000, 0x8000, RW);
    s.announce(0x5000, 0x1000).unwrap();
    assert_eq!(s.runs(), [(0x7000, 0x1000)]);
}

#[test]
fn dropping_it_unmaps_everything() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.replay().unwrap();
    drop(s.shadow);
    assert_eq!(s.host.runs(), []);
}

#[test]
fn a_mapping_that_fails_is_told_and_tried_again() {
    let s = Shadowed::on();
    for page in [1, 3, 5] {
        s.map(page << 12, page << 12, RW);
    }
    s.host.fail_map(0x3000);
    let error = s.shadow.replay().unwrap_err();
    assert!(
        matches!(error, ShadowError::Map { failed: 1, .. }),
        "{error}"
    );
    assert_eq!(s.runs(), [(0x1000, 0x1000), (0x5000, 0x1000)]);
    assert_eq!(s.shadow.mapped_bytes(), 0x2000);
    assert_eq!(s.faults(), [(NIC, 0x3000)]);
    s.host.fail_nothing();
    s.shadow.follow(TranslationChange::Domain(5)).unwrap();
    assert_eq!(s.runs().len(), 3);
    assert_eq!(s.faults(), []);
}

#[test]
fn what_fails_while_translation_is_off_is_no_fault_of_the_guests() {
    let s = Shadowed::off(ShadowLimits::default());
    s.host.fail_map(0);
    assert!(s.shadow.replay().is_err());
    assert_eq!(s.faults(), []);
}

#[test]
fn an_unmapping_that_fails_is_told_and_tried_again() {
    let s = Shadowed::on();
    for page in [1, 3, 5] {
        s.map(page << 12, page << 12, RW);
    }
    s.shadow.replay().unwrap();
    for page in [1, 3, 5] {
        s.map(page << 12, 0, 0);
    }
    s.host.fail_unmap(0x3000);
    let error = s.announce(0, 0x8000).unwrap_err();
    assert!(matches!(error, ShadowError::Unmap { .. }), "{error}");
    assert_eq!(s.runs(), [(0x3000, 0x1000)], "the others went");
    s.host.fail_nothing();
    s.announce(0x1000, 0x1000).unwrap();
    s.announce(0x3000, 0x1000).unwrap();
    assert_eq!(s.runs(), []);
}

#[test]
fn mappings_are_limited() {
    let s = Shadowed::off(ShadowLimits {
        mappings: 3,
        ..ShadowLimits::default()
    });
    s.rig.enable();
    for page in 0..10 {
        s.map(page << 13, page << 13, RW);
    }
    assert!(matches!(s.shadow.replay(), Err(ShadowError::Limit { .. })));
    assert_eq!(s.shadow.mappings(), 3);
    assert_eq!(s.faults().len(), 1);
    // What is there goes all the same, and makes room.
    s.map(0, 0, 0);
    assert!(s.shadow.follow(TranslationChange::All).is_err());
    assert_eq!(s.reach(0), None);
    assert_eq!(s.shadow.mappings(), 3);
}

#[test]
fn bytes_are_limited() {
    let s = Shadowed::off(ShadowLimits {
        bytes: 0x3000,
        ..ShadowLimits::default()
    });
    s.rig.enable();
    // The same page many times over is as many bytes.
    for page in 0..10 {
        s.map(page << 13, 0x8000, RW);
    }
    assert!(matches!(s.shadow.replay(), Err(ShadowError::Limit { .. })));
    assert_eq!(s.shadow.mapped_bytes(), 0x3000);
    assert_eq!(s.faults(), [(NIC, 3 << 13)]);
}

#[test]
fn tables_that_contain_themselves_end() {
    let s = Shadowed::off(ShadowLimits {
        tables: 5000,
        ..ShadowLimits::default()
    });
    s.rig.enable();
    for slot in 0..512 {
        s.rig.poke(s.top + slot * 8, s.top | RW);
    }
    assert!(matches!(s.shadow.replay(), Err(ShadowError::Limit { .. })));
    assert!(s.shadow.mappings() <= ShadowLimits::default().mappings);
    s.rig.w32(offset::GCMD, 0);
    s.shadow.follow(TranslationChange::All).unwrap();
    assert_eq!(s.shadow.mapped_bytes(), (RAM + HIGH_RAM) as u64);
}

#[test]
fn devices_of_one_group_reach_what_is_in_their_common_domain() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.set_requesters(vec![NIC, DISK]).unwrap();
    assert_eq!(s.runs(), [], "one of them is in no domain");
    let announce = |source| {
        let change = TranslationChange::Requesters {
            source,
            function_mask: 0,
        };
        s.shadow.follow(change).unwrap();
    };
    s.rig.set_context(DISK, s.top | 1, 5 << 8 | 2);
    announce(DISK);
    assert_eq!(s.reach(0x4000), Some((0x8000, true)));
    // The guest moves one of them into a domain of its own.
    let other = s.rig.domain(NIC, 6);
    s.rig.map(other, 0x4000, 0x9000, RW);
    announce(NIC);
    assert_eq!(s.runs(), []);
    s.rig.set_context(DISK, other | 1, 6 << 8 | 2);
    announce(DISK);
    assert_eq!(s.reach(0x4000), Some((0x9000, true)));
}

#[test]
fn a_device_that_gets_another_number_is_in_the_domain_of_that() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.set_requesters(Vec::new()).unwrap();
    assert_eq!(s.runs(), [], "nobody is there");
    s.shadow.set_requesters(vec![NIC]).unwrap();
    assert_eq!(s.reach(0x4000), Some((0x8000, true)));
    s.shadow.set_requesters(vec![DISK]).unwrap();
    assert_eq!(s.runs(), []);
    s.rig.w32(offset::GCMD, 0);
    s.shadow.set_requesters(Vec::new()).unwrap();
    assert_eq!(s.runs().len(), 2, "identity, before it has a number");
}

#[test]
fn the_end_is_for_good() {
    let s = Shadowed::on();
    s.map(0x4000, 0x8000, RW);
    s.shadow.replay().unwrap();
    s.shadow.end().unwrap();
    assert_eq!(s.runs(), []);
    s.shadow.follow(TranslationChange::All).unwrap();
    s.shadow.set_requesters(vec![NIC]).unwrap();
    s.shadow.replay().unwrap();
    assert_eq!((s.runs(), s.shadow.mapped_bytes()), (vec![], 0));
}
