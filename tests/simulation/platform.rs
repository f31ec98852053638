//! The simulated platforms: what functions answer, how long they take, and what the platforms hold of rules.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::sleep;
use triggerd::{
    domain::{
        binding::Binding,
        delivery::FunctionRef,
        ids::{BindingId, DeliveryId},
        outcome::{Class, Outcome},
    },
    platform::{Call, Driver, Established, Inspection, PlatformError},
};

use crate::{
    scenario::{Family, Temper},
    world::World,
};

/// The driver of a platform.
#[derive(Debug)]
pub(crate) struct SimPlatform(pub(crate) Arc<World>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Answer(Class),
    Panic,
    Hang,
}

/// A call under way; dropped without an answer it is over, too.
struct Calling<'a> {
    world: &'a World,
    id: DeliveryId,
    number: u32,
    function: FunctionRef,
    class: Option<Class>,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let (class, name) = (self.class, self.world.name(self.id));
        if self.world.state().is_crashed() {
            return;
        }
        self.world.note(format_args!("{name} answered {class:?}"));
        {
            let state = &mut *self.world.state();
            let elapsed = state.elapsed();
            state.books.call_ended((self.id, self.number), &self.function, (class, elapsed));
        }
        let late = self.world.state().is_late(self.id);
        if let Some(late) = late {
            self.world.violation(format_args!("{late}"));
        }
    }
}

impl SimPlatform {
    fn temper(&self, function: &FunctionRef) -> Temper {
        match function.name.strip_prefix('f').and_then(|number| number.parse::<usize>().ok()) {
            Some(number) => self.0.plan.functions[number].clone(),
            None => self.0.plan.handler.clone(),
        }
    }

    fn act(&self, binding: &Binding, function: &FunctionRef) -> (Act, std::time::Duration) {
        let temper = self.temper(function);
        let state = &mut *self.0.state();
        if self.0.plan.family == Family::Handshake
            && state.relating.rules.get(&binding.id) != Some(&binding.secret.digest())
        {
            return (Act::Answer(Class::BindingBroken), state.chance.millis((0, 20)));
        }
        if state.calm {
            return (Act::Answer(Class::Ok), state.chance.millis((0, 10)));
        }
        let weights = [
            (temper.ok, Act::Answer(Class::Ok)),
            (temper.accepted, Act::Answer(Class::Accepted)),
            (temper.throttled, Act::Answer(Class::Throttled)),
            (temper.platform_fault, Act::Answer(Class::PlatformFault)),
            (temper.function_fault, Act::Answer(Class::FunctionFault)),
            (temper.permanent, Act::Answer(Class::Permanent)),
            (temper.broken, Act::Answer(Class::BindingBroken)),
            (temper.panic, Act::Panic),
            (temper.hang, Act::Hang),
        ];
        let delay = state.chance.millis(temper.delay);
        let mut at = state.chance.below(weights.iter().map(|(weight, _)| weight).sum());
        for (weight, act) in weights {
            if at < weight {
                return (act, delay);
            }
            at -= weight;
        }
        (Act::Answer(Class::Ok), delay)
    }

    async fn rule_step(&self, what: &'static str) -> Result<(), PlatformError> {
        self.0.step(what).await;
        let (wait, away) = {
            let state = &mut *self.0.state();
            (state.chance.millis((0, 30)), state.sick(10))
        };
        sleep(wait).await;
        self.0.step(what).await;
        if away {
            let (platform, detail) = ("simulated".to_owned(), "away".to_owned());
            return Err(PlatformError::Unexpected { platform, what, status: 503, detail });
        }
        Ok(())
    }
}

#[async_trait]
impl Driver for SimPlatform {
    async fn establish(&self, binding: &Binding, _: &str) -> Result<Established, PlatformError> {
        self.rule_step("establish").await?;
        let digest = binding.secret.digest();
        let state = &mut *self.0.state();
        let held = state.relating.rules.entry(binding.id).or_insert_with(|| digest.clone());
        Ok(if *held == digest { Established::Confirmed } else { Established::Rejected("another".into()) })
    }

    async fn inspect(&self, binding: &Binding) -> Result<Inspection, PlatformError> {
        self.rule_step("inspect").await?;
        let state = self.0.state();
        Ok(match state.relating.rules.get(&binding.id) {
            None => Inspection::Missing,
            Some(digest) if *digest != binding.secret.digest() => Inspection::Changed("the secret".into()),
            Some(_) => Inspection::InStep { confirmed: true },
        })
    }

    async fn withdraw(&self, id: BindingId) -> Result<(), PlatformError> {
        self.rule_step("withdraw").await?;
        self.0.state().relating.rules.remove(&id);
        Ok(())
    }

    async fn check(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn invoke(&self, call: Call<'_>) -> Outcome {
        self.0.step("a call").await;
        let (id, function) = (call.delivery.id, call.delivery.function.clone());
        let wrong = self.0.state().call_begins(&call);
        let (name, attempts, number) = (self.0.name(id), call.delivery.attempts, call.delivery.number());
        self.0.note(format_args!("{name} is called, its call {number}, {attempts} attempts before"));
        for wrong in wrong {
            self.0.violation(format_args!("{wrong}"));
        }
        let (act, delay) = self.act(call.binding, &function);
        let mut calling = Calling { world: &self.0, id, number, function, class: None };
        // An asynchronous function may have ended before its platform's answer is there.
        if act == Act::Answer(Class::Accepted) {
            self.0.state().accept(&call);
            self.0.accepted.notify_one();
        }
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.0.step("an answer").await;
        match act {
            Act::Hang => std::future::pending().await,
            Act::Panic => std::panic::panic_any(crate::Simulated),
            Act::Answer(class) => {
                calling.class = Some(class);
                let wait = {
                    let state = &mut *self.0.state();
                    let waits = class == Class::Throttled && state.chance.percent(50);
                    let wait = waits.then(|| state.chance.millis((100, 20_000)));
                    let until = state.elapsed() + wait.unwrap_or_default();
                    state.books.asked.insert(id, until);
                    wait
                };
                Outcome::new(class, None, "simulated").retry_after(wait)
            }
        }
    }
}
