use std::path::Path;

use devices::net::Mac;
use proptest::prelude::*;

use super::*;
use crate::config::{DeviceSpec, NetBackend};
use crate::control::fake::Fake;

fn ask(fake: &Fake, line: &str) -> String {
    answer(line.as_bytes(), fake)
}

#[test]
fn a_device_is_added_with_the_options_of_the_flag() {
    let fake = Fake::default();
    let said = ask(
        &fake,
        r#"{"do":"add","assign":"02:10.0,port=3,rom=a.rom","id":"gpu","folder":"/roms"}"#,
    );
    assert_eq!(
        said,
        "{\"ok\":{\"guest\":null,\"id\":\"gpu\",\"port\":2}}\n"
    );
    ask(
        &fake,
        r#"{"do":"add","net":"tap=tap0,mac=02:00:00:00:00:01"}"#,
    );
    let added = fake.added.lock().unwrap();
    let NewDevice::Assign(spec) = &added[0].device else {
        panic!()
    };
    assert_eq!(spec.port, Some(3));
    assert!(matches!(spec.device, DeviceSpec::Named(_)));
    let rom = RomSource::File(Path::new("/roms/a.rom").into());
    assert_eq!(spec.presentation.rom, rom);
    let NewDevice::Net(spec) = &added[1].device else {
        panic!()
    };
    assert_eq!(spec.backend, NetBackend::Tap("tap0".into()));
    assert_eq!(spec.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!(added[1].id, None);
}

#[test]
fn a_removal_has_patience_unless_told_otherwise() {
    let fake = Fake::default();
    assert_eq!(ask(&fake, r#"{"do":"remove","id":"x"}"#), "{\"ok\":{}}\n");
    ask(
        &fake,
        r#"{"do":"remove","id":"x","force":true,"timeout":5}"#,
    );
    let removals = fake.removals.lock().unwrap();
    let told: Vec<_> = removals
        .iter()
        .map(|(_, r)| (r.force, r.patience))
        .collect();
    assert_eq!(told, [(false, PATIENCE), (true, Duration::from_secs(5))]);
}

#[test]
fn a_listing_is_data() {
    let said = ask(&Fake::default(), r#"{"do":"list"}"#);
    assert_eq!(said, "{\"ok\":{\"devices\":[],\"free_ports\":[1,2]}}\n");
}

#[test]
fn what_is_wrong_is_told_with_a_code() {
    let fake = Fake::default();
    for (line, code, part) in [
        (r#"{"do":"remove","id":"y"}"#, "unknown-id", "there is no y"),
        (r#"{"do":"dance"}"#, "invalid", "unknown variant `dance`"),
        (r#"{"do":"list","x":1}"#, "invalid", "unknown field `x`"),
        (
            r#"{"do":"add","assing":"02:10.0"}"#,
            "invalid",
            "unknown field `assing`",
        ),
        (r#"{"do":"add"}"#, "invalid", "either assign or net"),
        (
            r#"{"do":"add","net":"tap=a","assign":"1:0.0"}"#,
            "invalid",
            "either assign or net",
        ),
        (
            r#"{"do":"add","assign":"02:10.0,port=99"}"#,
            "invalid",
            "from 1 to 32",
        ),
        (
            r#"{"do":"add","net":"user","id":"a b"}"#,
            "invalid",
            "cannot be an id",
        ),
        ("list", "invalid", "not a request"),
    ] {
        let said = ask(&fake, line);
        assert!(
            said.contains(&format!("\"code\":\"{code}\"")),
            "{line}: {said}"
        );
        assert!(said.contains(part), "{line}: {said}");
        assert_eq!(said.matches('\n').count(), 1);
    }
}

proptest! {
    #[test]
    fn any_line_is_answered_with_one(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let said = answer(&line, &Fake::default());
        prop_assert!(said.ends_with('\n') && said.matches('\n').count() == 1);
    }

    #[test]
    fn a_request_is_read_as_it_was_written(id in "[a-z0-9.:]{1,20}", force: bool, timeout: Option<u32>) {
        let request = Request::Remove { id, force, timeout };
        let text = serde_json::to_string(&request).unwrap();
        prop_assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
}
