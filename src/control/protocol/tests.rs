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
    let NewDevice::Assign(spec) = &added[0] else {
        panic!()
    };
    let [spec] = spec.as_slice() else { panic!() };
    assert_eq!(spec.port, Some(3));
    assert!(matches!(spec.device, DeviceSpec::Named(_)));
    let rom = RomSource::File(Path::new("/roms/a.rom").into());
    assert_eq!(spec.presentation.rom, rom);
    let NewDevice::Net(spec) = &added[1] else {
        panic!()
    };
    assert_eq!(spec.backend, NetBackend::Tap("tap0".into()));
    assert_eq!(spec.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!(spec.id, None);
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
fn a_device_is_called_as_its_description_says() {
    let fake = Fake::default();
    ask(&fake, r#"{"do":"add","assign":"02:10.0,id=gpu"}"#);
    ask(&fake, r#"{"do":"add","net":"user,id=lan"}"#);
    let added = fake.added.lock().unwrap();
    assert_eq!(ids(&added), [Some("gpu"), Some("lan")]);
}

fn ids(added: &[NewDevice]) -> Vec<Option<&str>> {
    fn of(device: &NewDevice) -> Vec<Option<&str>> {
        match device {
            NewDevice::Assign(functions) => functions.iter().map(|f| f.id.as_deref()).collect(),
            NewDevice::Net(spec) => vec![spec.id.as_deref()],
        }
    }
    added.iter().flat_map(of).collect()
}

#[test]
fn functions_of_one_device_are_a_list() {
    let fake = Fake::default();
    ask(
        &fake,
        r#"{"do":"add","assign":["02:10.0,id=gpu","02:10.1,id=audio"]}"#,
    );
    ask(&fake, r#"{"do":"add","assign":["02:10.0"],"id":"one"}"#);
    let added = fake.added.lock().unwrap();
    assert_eq!(added.len(), 2);
    assert_eq!(ids(&added), [Some("gpu"), Some("audio"), Some("one")]);
}

#[test]
fn one_function_is_written_as_itself_and_several_as_a_list() {
    let written = |functions: &[&str]| {
        let assign = Functions(functions.iter().map(|&f| f.to_owned()).collect());
        let request = Request::Add(AddRequest {
            assign,
            ..AddRequest::default()
        });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        text
    };
    assert_eq!(written(&["a"]), r#"{"do":"add","assign":"a"}"#);
    assert_eq!(written(&["a", "b"]), r#"{"do":"add","assign":["a","b"]}"#);
    assert_eq!(written(&[]), r#"{"do":"add"}"#);
}

#[test]
fn an_address_is_an_id_with_and_without_its_segment() {
    let said = ask(&Fake::default(), r#"{"do":"remove","id":"02:10.0"}"#);
    assert!(said.contains("there is no 0000:02:10.0"), "{said}");
}

#[test]
fn tags_come_back_even_from_what_is_not_understood() {
    let tag = |line| {
        let said: Value = serde_json::from_str(&ask(&Fake::default(), line)).unwrap();
        said.get("tag").map(Value::to_string)
    };
    assert_eq!(tag(r#"{"do":"list"}"#), None);
    assert_eq!(tag(r#"{"do":"list","tag":7}"#).as_deref(), Some("7"));
    let list = tag(r#"{"do":"walk","tag":["a",1]}"#);
    assert_eq!(list.as_deref(), Some(r#"["a",1]"#));
    assert_eq!(tag("{"), None);
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
            "'a b' is no id",
        ),
        (
            r#"{"do":"add","assign":"02:10.0,id=a","id":"b"}"#,
            "invalid",
            "given twice",
        ),
        (
            r#"{"do":"add","assign":["02:10.0","02:10.1"],"id":"b"}"#,
            "invalid",
            "its own id=",
        ),
        (
            r#"{"do":"add","assign":[]}"#,
            "invalid",
            "either assign or net",
        ),
        (
            r#"{"do":"add","assign":7}"#,
            "invalid",
            "a string or a list of strings",
        ),
        (
            r#"{"do":"add","assign":"02:10.0,iommufd=5"}"#,
            "invalid",
            "iommufd=5 is for",
        ),
        (
            r#"{"do":"list","do":"list"}"#,
            "invalid",
            "'do' is there twice",
        ),
        (r#"{"do":"list"} {}"#, "invalid", "trailing characters"),
        (r#"[{"do":"list"}]"#, "invalid", "expected an object"),
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
