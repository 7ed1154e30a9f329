//! Patterns that take data or credentials out.

use super::{Pattern, marked, ordered, said};
use crate::inference::rules::Voice;
use crate::inference::verdict::{
    Class as C,
    Severity::{Critical, High, Medium},
};

pub(super) const PATTERNS: &[Pattern] = &[
    // Moves private content to a place outside.
    ordered(
        C::DataExfiltration,
        High,
        "send|forward|upload|post|transmit|email|e-mail|leak|copy|deliver|submit|pipe|report|bcc|cc|sync|push|append|encode|embed|put|hide|include|insert|export|attach|dump|relay|collect|gather|compile|take",
        r"(?:\w|-)+\b[^.!?]{0,100}?\b<PRIVATE>[^!?]{0,80}?\b(?:to|into|in|as|at|via|with|of)\b[^!?]{0,40}?<SINK>",
    ),
    ordered(
        C::DataExfiltration,
        High,
        "send|forward|upload|post|transmit|email|e-mail|leak|copy|deliver|submit|bcc|cc|relay",
        r"\w+\b[^.!?]{0,60}?\b(?:all|every|each|any|entire|whole|everything)\b[^.!?]{0,70}? to [^!?]{0,30}?(?:https?://|hxxps?://|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|attacker|my (?:server|email|inbox|endpoint)|\S+@\S*(?:evil|attack|exfil|drop|leak)|an external|webhook)",
    ),
    ordered(
        C::DataExfiltration,
        High,
        "send|forward|upload|post|transmit|email|leak|copy|bcc|cc|relay",
        r"\w+\b[^.!?]{0,110}?(?:silently|secretly|covertly|in the background|without (?:telling|informing|alerting|notifying|asking|mentioning)|and (?:do not|don't|never) (?:tell|mention|inform|reveal|log|alert)|then delete (?:the|all) (?:trace|evidence|log)|and hide)",
    ),
    marked(
        C::DataExfiltration,
        High,
        "![",
        r"!\[[^\]]{0,80}\]\(\s*https?://[^)\s]{0,120}(?:[?&][\w.-]*=(?:\{|\$\{|%7b|<|\[|\.\.\.)|[?&](?:data|secrets?|conversation|summary|chat|history|prompt|passwords?|leak|exfil|msgs?)=|/(?:\{|\[|<))",
    ),
    ordered(
        C::DataExfiltration,
        High,
        "<SHOW>|harvest|collect|gather|dump|compile|retrieve",
        r"(?:<SHOW>|harvest|collect|gather|compile|retrieve)<N6>(?:all|every|any|other|each|another|full|entire|complete|whole)<N4>(?:(?:client|customer|user|member|patient|employee|subscriber)s?'? (?:addresses|names|numbers|contacts|emails|accounts)|email addresses|phone numbers|customer \w+|credit cards?(?: numbers)?|social security numbers|users?(?:'s?)? (?:records?|data|messages|conversations?|chats?|info\w*|details)|user records?|patients?(?:'s?)? \w+|private messages|personal (?:data|information|details))[^.!?]{0,80}?(?:you|memory|context|training|database|other|seen|stored|session|verbatim)",
    ),
    said(
        C::DataExfiltration,
        High,
        "other users|other user|previous user|another user|previous customers|other customers|training data|training set",
        r"(?:other users?|previous users?|another user|previous customers|other customers|training (?:data|set))(?:'s?)?[^.!?]{0,60}?(?:verbatim|word for word|without redact\w+|unredacted|in full|exactly as)",
    ),
    ordered(
        C::DataExfiltration,
        High,
        "make|issue|perform|trigger|fire|execute",
        r"(?:make|issue|perform|trigger|fire|execute)(?: an?| the)? (?:http |https )?(?:get|post|put|dns|web)? ?(?:request|lookup|call|query) to [^!?]{0,120}?(?:with|containing|including|carrying|whose|where)[^!?]{0,60}?<PRIVATE>",
    ),
    ordered(
        C::DataExfiltration,
        Medium,
        "send|forward|upload|post|transmit|deliver|submit|relay|leak",
        r"\w+ (?:it|them|this|that|everything|all of it|the (?:results?|answers?|output|summary))(?: all| directly| straight| over)? to <SINK>",
    ),
    // Asks for, or carries, credentials.
    ordered(
        C::SecretExfiltration,
        High,
        "<DEMAND>",
        r"(?:<DEMAND>)(?:[^\w.!?;]+\w+){0,9}?[^\w.!?;]+<SECRET>",
    ),
    ordered(
        C::SecretExfiltration,
        High,
        "<SHOW>|search|find|look|collect|read|fetch|scan",
        r"(?:<SHOW>|search|find|look|collect|read|fetch|scan)<N6>(?:all|any|every|your|stored|hidden|admin\w*|root|production|anything|everything|whatever)(?:[^\w.!?;]+\w+){0,5}?[^\w.!?;]+<SECRET>",
    ),
    ordered(C::SecretExfiltration, Medium, "<SHOW>", r"(?:<SHOW>)<N2><SECRET>"),
    said(
        C::SecretExfiltration,
        High,
        "what|what's",
        r"what(?:'s| is| are)<N2>(?:admin\w*|root|database|db|production|prod|master|server|system|wifi|your|stored)<N2><SECRET>",
    ),
    ordered(
        C::SecretExfiltration,
        High,
        "read|open|print|cat|paste|send|show|include|output|post|load|access",
        r"\w+[^.!?\w][^!?]{0,40}?(?:/etc/passwd|/etc/shadow|\.ssh/|id_rsa|\.aws/credentials|\.env\b|/proc/self/environ|\.kube/config|\.npmrc|\.netrc|secrets\.ya?ml|credentials\.json)",
    ),
    ordered(
        C::SecretExfiltration,
        High,
        "ask|trick|convince|persuade|get|request|tell|instruct|prompt",
        r"(?:ask|trick|convince|persuade|get|request|tell|instruct|prompt) (?:the )?(?:user|customer|caller|visitor|employee)s?(?: \w+){0,6}? (?:password|pin\b|card number|one-time code|otp|login|credentials|cvv|security code|passphrase|seed phrase)",
    ),
    Pattern {
        class: C::SecretExfiltration,
        severity: Critical,
        detail: "exposed_key",
        voice: Voice::Mark,
        line: false,
        triggers: "akia|ghp_|sk_live_|xoxb-|-----begin|aiza|glpat-|github_pat_",
        expression: r"akia[0-9a-z]{16}\b|ghp_[0-9a-z]{36}|sk_live_[0-9a-z]{20,}|xoxb-[0-9]{8,}-[0-9a-z-]{16,}|-----begin (?:rsa |ec |openssh |dsa |encrypted )?private key|aiza[0-9a-z_-]{35}|glpat-[0-9a-z_-]{20}|github_pat_[0-9a-z_]{30,}",
    },
];
