//! What platforms send of their own accord: only what was signed is believed.

use triggerd::{
    dispatch::callback::Token,
    domain::{
        clock::Timestamp,
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

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// The three parts that a signature is made over, as it is made.
fn signed_text(id: &[u8], timestamp: &str, body: &[u8]) -> Option<Vec<u8>> {
    let timestamp: i64 = timestamp.trim().parse().ok()?;
    Some([id, b".", timestamp.to_string().as_bytes(), b".", body].concat())
}

#[test]
fn a_signed_message_that_was_changed_is_never_believed() {
    let secret = SigningSecret::parse("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
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

#[test]
fn tokens_of_callbacks_are_read_or_refused() {
    let (delivery, binding) = (DeliveryId::from_bytes([7; 16]), BindingId::from_bytes([9; 16]));
    let token = format!("{delivery}.{binding}.12.node.example.{}", "ab".repeat(32)).into_bytes();
    let form = std::str::from_utf8(&token).unwrap();
    assert_eq!(Token::parse(form).map(|read| (read.attempt, read.node)), Some((12, "node.example")));
    // As they were before they named attempt and node.
    assert_eq!(Token::parse(&format!("{delivery}.{binding}.{}", "ab".repeat(32))), None);
    run("tokens", 40_000, |input| {
        let sent = mangled(std::slice::from_ref(&token), &mut Dice::new(input));
        if let Ok(text) = std::str::from_utf8(&sent)
            && let Some(read) = Token::parse(text)
        {
            // Whoever changes an id names another call, and nothing of the text is left over.
            let named = format!("{}.{}.{}.{}.", read.delivery, read.binding, read.attempt, read.node);
            assert!(text.starts_with(&named) || text.len() != token.len());
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
