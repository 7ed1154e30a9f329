//! What is left of the limits, for those who ask.

use protocol::limits::{Policy, Scope, Span};
use protocol::peer::{LimitState, LimitsView};
use protocol::plans::Limits;
use protocol::{KeyId, Stamp, TenantId};

use super::super::Machine;
use super::ledger::{Ledger, TOKEN, Terms, Window, ends};
use super::parties;

/// Millionths of a dollar in a cent.
pub(in crate::machine) const CENT_MICROS: u64 = 10_000;

impl Machine {
    /// The limits of a tenant, and of one of its keys if one is named, at a moment; `None` when there
    /// is no such tenant or key.
    #[must_use]
    pub fn limits_view(
        &self,
        tenant: TenantId,
        key: Option<KeyId>,
        now: Stamp,
    ) -> Option<LimitsView> {
        let row = self.tenants.get(tenant)?;
        let parties = parties(self, row, key).ok()?;
        let limits = &parties.limits;
        let mut states = Vec::new();
        for (name, terms) in &parties.of {
            let mut ledger = self.limits.ledgers.get(name).copied().unwrap_or_default();
            ledger.advance(terms, now);
            states.extend(ledger.states(terms, now));
        }
        let report = self.usage.report(row, protocol::usage::Period::CurrentMonth, now);
        let month_ms = report.resets_at.ms_since(now.time);
        let of_tenant = |policy, limit, used, reserved, reset_ms| LimitState {
            policy,
            scope: Scope::Tenant,
            limit,
            burst: None,
            window_s: None,
            used,
            reserved,
            remaining: limit.saturating_sub(used + reserved),
            reset_ms,
            shadow: false,
        };
        if let (Some(limit), Some(left)) = (report.limit, report.remaining) {
            states.push(of_tenant(Policy::PerMonth, limit, limit - left, 0, month_ms));
        }
        if let Some(limit) = limits.concurrency {
            let running =
                self.limits.of_tenant(tenant).filter(|(_, end)| now.steady < *end).count();
            states.push(of_tenant(Policy::Concurrency, limit, running as u64, 0, 0));
        }
        if let Some(limit) = limits.budget {
            let used = self.usage.cost(tenant, now).div_ceil(CENT_MICROS);
            let money = self.limits.ledgers.get(&(tenant, None)).map_or(0, |ledger| ledger.money);
            states.push(of_tenant(
                Policy::Budget,
                limit,
                used,
                money.div_ceil(CENT_MICROS),
                month_ms,
            ));
        }
        mark_shadows(&mut states, limits);
        Some(LimitsView { states, at: now.time })
    }
}

fn mark_shadows(states: &mut [LimitState], limits: &Limits) {
    for state in states {
        state.shadow = limits.shadow.has(state.policy);
    }
}

impl Ledger {
    /// The state of each policy. The account is at `now`.
    pub(super) fn states(&self, terms: &Terms, now: Stamp) -> Vec<LimitState> {
        let scope = terms.scope.unwrap_or(Scope::Tenant);
        let state = |(policy, limit): (Policy, u64)| match policy.span() {
            Some(span) => windowed(policy, scope, limit, self.window(span), span, now),
            None => self.bucket_state(policy, scope, limit, terms),
        };
        terms.policies().map(state).collect()
    }

    fn bucket_state(&self, policy: Policy, scope: Scope, rate: u64, terms: &Terms) -> LimitState {
        let burst = terms.burst_requests();
        let remaining = self.tokens(terms);
        let used = burst.saturating_sub(remaining + self.out);
        LimitState {
            policy,
            scope,
            limit: rate,
            burst: Some(burst),
            window_s: None,
            used,
            reserved: self.out,
            remaining,
            reset_ms: (used + self.out).saturating_mul(TOKEN).checked_div(rate).unwrap_or(u64::MAX),
            shadow: false,
        }
    }
}

fn windowed(
    policy: Policy,
    scope: Scope,
    limit: u64,
    window: &Window,
    span: Span,
    now: Stamp,
) -> LimitState {
    LimitState {
        policy,
        scope,
        limit,
        burst: None,
        window_s: Some(span.ms() / 1_000),
        used: window.used,
        reserved: window.reserved,
        remaining: window.room(limit),
        reset_ms: ends(span, now).ms_since(now.time),
        shadow: false,
    }
}
