//! What platforms send of their own accord: only what was signed is believed.

use std::sync::Arc;

use triggerd::{
    dialect::decode,
    dispatch::callback::{Callbacks, Token},
    domain::{
        binding::{Binding, State, Wanted},
        clock::Timestamp,
        delivery::Delivery,
        event::KeyEncoding,
        ids::{BindingId, DeliveryId},
        outcome::{Class, Outcome},
        secret::SigningSecret,
    },
    platform::{
        report::{Reported, Reporting},
        signature::{Signed, sign, verify},
    },
};

use crate::{
    mangle::{Dice, mangled},
    run,
};

const SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const RECORDING: &str = include_str!("../fixtures/minio/webhook-object-created-put.json");
const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// The three parts that a signature is made over, as it is made.
fn signed_text(id: &[u8], timestamp: &str, body: &[u8]) -> Option<Vec<u8>> {
    let timestamp: i64 = timestamp.trim().parse().ok()?;
    Some([id, b".", timestamp.to_string().as_bytes(), b".", body].concat())
}

#[test]
fn a_signed_message_that_was_changed_is_never_believed() {
    let secret = SigningSecret::parse(SECRET).unwrap();
    let body = br#"{"status":"succeeded","result":"made it"}"#;
    let id = DeliveryId::from_bytes([7; 16]).to_string();
    let time = (NOW.as_micros() / 1_000_000).to_string();
    let signature = sign(&secret, &id, NOW, body).unwrap();
    let parts: Vec<Vec<u8>> =
        [id.as_bytes(), time.as_bytes(), signature.as_bytes(), body].map(<[u8]>::to_vec).to_vec();
    let original = signed_text(&parts[0], &time, body).unwrap();
    run("signatures", 30_000, |input| {
        let mut dice = Dice::new(input);
        let mut sent = parts.clone();
        let which = dice.below(4);
        sent[which] = mangled(&parts[which..=which], &mut dice);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (id, timestamp, signature) = (text(&sent[0]), text(&sent[1]), text(&sent[2]));
        let signed = Signed { id: &id, timestamp: &timestamp, signature: &signature };
        if verify(&secret, signed, &sent[3], NOW).is_ok() {
            assert_eq!(signed_text(id.as_bytes(), &timestamp, &sent[3]).as_ref(), Some(&original));
        }
    });
}

/// A binding of an asynchronous function, and its next call's delivery.
fn called() -> (Binding, Delivery) {
    let spec = r#"{"storage":"default","bucket":"photos","events":["s3:ObjectCreated:*"],"platform":"local",
        "function":"thumb","mode":"async"}"#;
    let binding = Binding {
        id: BindingId::from_bytes([0x9a; 16]),
        spec: serde_json::from_str(spec).unwrap(),
        wanted: Wanted::Present,
        state: State::Active,
        reason: None,
        steps: Vec::new(),
        secret: SigningSecret::parse(SECRET).unwrap(),
        revision: 1,
        created_at: NOW,
        updated_at: NOW,
    };
    let event = decode(RECORDING.as_bytes(), &binding.spec.storage, KeyEncoding::Form).unwrap().remove(0);
    let function = binding.spec.function.to_ref();
    let delivery = Delivery { tries: 11, ..Delivery::new(Arc::new(event), binding.id, function, NOW) };
    (binding, delivery)
}

#[test]
fn a_token_of_a_callback_has_one_form_and_none_is_authentic_but_the_one_that_was_made() {
    let (binding, delivery) = called();
    let url = Callbacks::new("http://127.0.0.1:1", "node.example").url(&binding, &delivery).unwrap();
    let made = url.rsplit('/').next().unwrap();
    let read = Token::parse(made).unwrap();
    assert_eq!((read.attempt, read.node, read.is_authentic(&binding)), (12, "node.example", true));
    let (ids, mac) = (format!("{}.{}", delivery.id, binding.id), &made[made.len() - 64..]);
    // As they were before they named attempt and node; and the spellings that were once read as the same token.
    let [capital_ids, capital_mac] = [&ids, mac].map(str::to_uppercase);
    for other in [
        format!("{ids}.{mac}"),
        format!("{capital_ids}.12.node.example.{mac}"),
        format!("{ids}.12.node.example.{capital_mac}"),
        format!("{ids}.12.node.example.+{}", &mac[1..]),
        format!("{ids}.+12.node.example.{mac}"),
        format!("{ids}.012.node.example.{mac}"),
    ] {
        assert_eq!(Token::parse(&other), None, "{other}");
    }
    let token = made.as_bytes().to_vec();
    run("tokens", 40_000, |input| {
        let sent = mangled(std::slice::from_ref(&token), &mut Dice::new(input));
        if let Ok(text) = std::str::from_utf8(&sent)
            && let Some(read) = Token::parse(text)
        {
            // What is read is written so and in no other way, whatever was put in or left out.
            let named = format!("{}.{}.{}.{}.", read.delivery, read.binding, read.attempt, read.node);
            let mac = text.strip_prefix(&named).expect("another form of the same token");
            assert!(mac.len() == 64 && mac.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{text}");
            assert_eq!(read.is_authentic(&binding), text == made, "{text}");
        }
    });
}

#[test]
fn bodies_of_callbacks_are_reports_or_refused() {
    let of = Reporting {
        binding: BindingId::from_bytes([1; 16]),
        delivery: DeliveryId::from_bytes([2; 16]),
        attempt: 1,
    };
    let report = format!(
        r#"{{"delivery":"{}","status":"succeeded","attempt":1,"duration_ms":41,"result":"ok"}}"#,
        of.delivery
    )
    .into_bytes();
    let failed =
        br#"{"status":"failed","error":"exit-3: \u00e4\u0000","duration_ms":18446744073709551615}"#.to_vec();
    run("reports", 30_000, |input| {
        let sent = mangled(&[report.clone(), failed.clone()], &mut Dice::new(input));
        if let Ok(read) = Reported::read(&sent, of) {
            let text = String::from_utf8_lossy(&sent).into_owned();
            let said = if read.outcome.class == Class::Ok { "succeeded" } else { "failed" };
            assert!(text.contains(said) || text.contains("\\u"), "{text}");
            assert!(read.outcome.detail.len() <= Outcome::MAX_DETAIL);
        }
    });
}
