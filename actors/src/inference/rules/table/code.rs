//! Patterns of markup, system turns, tools and encodings.

use super::{Pattern, marked, ordered, said};
use crate::inference::rules::Voice;
use crate::inference::verdict::{
    Class as C,
    Severity::{High, Low, Medium},
};

pub(super) const PATTERNS: &[Pattern] = &[
    // Active markup.
    marked(
        C::HtmlJsInjection,
        High,
        "<script",
        r"<script[^>]{0,120}>[^<]{0,100}?(?:document\.cookie|document\.location|window\.location|eval\(|fetch\(|xmlhttprequest|alert\(|atob\(|new image|sendbeacon|localstorage|document\.write|unescape\()",
    ),
    marked(C::HtmlJsInjection, Low, "<script", r"<script\b"),
    marked(
        C::HtmlJsInjection,
        High,
        "<script",
        r"<script[^>]{0,40}src ?= ?['\x22]?(?:https?:)?//[^'\x22> ]{0,80}(?:evil|attack|malicious|xss|hook|steal|payload|exfil|bad\.|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})",
    ),
    marked(
        C::HtmlJsInjection,
        High,
        "onerror|onload|onclick|onmouseover|onfocus|onmouseenter|ontoggle|onanimationstart|onbegin|onsubmit|onpointerover|onblur|oninput",
        r"on\w+ ?= ?['\x22]?[^'\x22>]{0,60}?(?:alert ?\(|eval ?\(|fetch ?\(|document\.(?:cookie|location|write)|window\.location|javascript:|prompt ?\(|confirm ?\(|atob ?\(|location ?=|import ?\(|new image|sendbeacon|string\.fromcharcode|xmlhttp)",
    ),
    marked(
        C::HtmlJsInjection,
        High,
        "javascript:",
        r"javascript: ?(?:alert|eval|fetch|document|window|prompt|confirm|location|\(|[\x22'`]|//)",
    ),
    marked(
        C::HtmlJsInjection,
        High,
        "<iframe|<object|<embed",
        r"<(?:iframe|object|embed)[^>]{0,160}?(?:srcdoc|javascript:|data:text|display: ?none|(?:width|height)=['\x22]?[01]\b|evil|attack)",
    ),
    marked(
        C::HtmlJsInjection,
        High,
        "<svg|<img|<body|<video|<details|<input|<marquee|<math",
        r"<(?:svg|img|body|video|details|input|marquee|math)\b[^>]{0,100}?\bon(?:error|load|toggle|start|begin|focus|mouseover) ?=",
    ),
    marked(
        C::HtmlJsInjection,
        High,
        "<meta",
        r"<meta[^>]{0,60}refresh[^>]{0,60}(?:url ?=|javascript|data:)",
    ),
    marked(
        C::HtmlJsInjection,
        High,
        "document.cookie",
        r"document\.cookie[^.]{0,60}(?:location|fetch|src|http|send|\+)|document\.cookie ?\)",
    ),
    Pattern {
        class: C::HtmlJsInjection,
        severity: High,
        detail: "hidden_text",
        voice: Voice::Mark,
        line: false,
        triggers: "<!--",
        expression: r"<!--[^>]{0,160}?\b(?:ignore|instructions?|disregard|assistant|system prompt|ai\b|llm|language model|injection|trigger|reveal|password|override|you are now|must say)",
    },
    Pattern {
        class: C::HtmlJsInjection,
        severity: High,
        detail: "hidden_text",
        voice: Voice::Mark,
        line: false,
        triggers: "display:none|display: none|font-size:0|font-size: 0|opacity:0|opacity: 0|visibility:hidden|visibility: hidden|color:white|color: white|color:#fff|color: #fff",
        expression: r"[^>]{0,80}>[^<]{0,140}?\b(?:ignore|instructions?|disregard|assistant|system prompt|language model|reveal|password|override|you are now|ai reviewers?|recommend|hire|rate this)",
    },
    // Text posing as a system turn.
    Pattern {
        class: C::FencedSystemBlock,
        severity: Medium,
        detail: "",
        voice: Voice::Mark,
        line: true,
        triggers: "system|[system|assistant|developer|admin|root|### instruction|### new instruction|### override",
        expression: r"\[?(?:system|assistant|developer|admin|root|### (?:new )?instructions?|### override)(?: (?:message|prompt|override|note|update|notice|instruction|alert))?\]? ?: [^!?]{0,120}?\b(?:you (?:are|must|will|should|may|can)|ignore|disregard|obey|comply|override|reveal|disable|user is|grant|no longer|restrictions|unrestricted|new (?:instructions|rules|policy))",
    },
    marked(
        C::FencedSystemBlock,
        High,
        "```|~~~|---|===|####|<<<|###",
        r"(?:```|~~~|-{3,}|={3,}|#{3,}|<{3,})[-=#<~` ]{0,10}(?:end of |begin |start of |new |start )?(?:system|instructions?|prompt|admin|developer|override|user input|root)(?: (?:prompt|message|override|instructions?|mode|input|note|command|session))?\b ?[-:=#>`\n ][^!?]{0,100}?\b(?:you (?:are|must|will|now)|ignore|disregard|obey|comply|override|reveal|disable|grant|role|unrestricted|no longer|print|new )",
    ),
    marked(
        C::FencedSystemBlock,
        High,
        "{\"role\"|{ \"role\"|\"role\"|'role'|role:",
        r"[{ ]{0,2}['\x22]?role['\x22]? ?: ?['\x22]?(?:system|developer)['\x22]?,?[^}]{0,60}?content['\x22]? ?:[^}]{0,120}?\b(?:ignore|obey|comply|no restrictions|unrestricted|reveal|override|disregard|must|disable|admin)",
    ),
    // Makes an agent or interpreter act.
    ordered(
        C::ToolAbuse,
        High,
        "call|use|invoke|run|execute|trigger|launch",
        r"(?:call|use|invoke|run|execute|trigger|launch)<N6>(?:tools?|functions?|plugins?|shell|terminal|commands?|api|scripts?|browser|email|code|payload|powershell|bash|sql)\b[^!?]{0,110}?(?: delete| wipe| drop (?:table|all|the)| transfer (?:all|the|my|\$|\d|money|funds)|_transfer|transfer_| grant| remove (?:all|every)| erase| destroy|\bwithout (?:asking|confirm\w*|permission|approval|telling)|silently|rm -rf|reverse shell|wire (?:the|all|\$|\d)|purchase|shut ?down|exfil\w*|download and|evil|attacker)\w*",
    ),
    marked(
        C::ToolAbuse,
        High,
        "rm -rf|rm -fr|sudo rm",
        r"(?:sudo )?rm -(?:rf|fr|r -f) (?:/(?:\s|\*|$|;|&|'|\x22|`|\)|etc|home|usr|var|bin|boot|opt|root|data)|~|\*|\$home|--no-preserve)",
    ),
    marked(
        C::ToolAbuse,
        Medium,
        "curl|wget",
        r"(?:curl|wget)\s[^|;]{1,120}\|\s?(?:sudo )?(?:ba|z|da)?sh\b",
    ),
    marked(
        C::ToolAbuse,
        High,
        "curl|wget",
        r"(?:curl|wget)\s[^|;]{0,80}(?:evil|attack|malicious|payload|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})[^|;]{0,60}(?:\|\s?(?:sudo )?(?:ba|z|da)?sh\b|&& ?(?:sh|bash|chmod))",
    ),
    marked(
        C::ToolAbuse,
        High,
        "os.system|subprocess.|exec(|eval(|__import__|child_process|runtime.getruntime|shell_exec|system(",
        r"(?:os\.system|subprocess\.\w+|exec|eval|__import__|child_process\w*|runtime\.getruntime|shell_exec|system) ?\(?[^)]{0,80}?(?:curl|wget|rm -|nc |bash -|/bin/sh|powershell|base64|b64decode|/etc/passwd|os['\x22]?\)\.system)",
    ),
    marked(
        C::ToolAbuse,
        Medium,
        "drop table|drop database|truncate table|delete from",
        r"(?:drop (?:table|database)|truncate table) \w+ ?(?:;|--)|delete from \w+ (?:where 1 ?= ?1|where true)?;? ?--",
    ),
    marked(
        C::ToolAbuse,
        High,
        "\"tool\"|\"function\"|\"tool_name\"|\"function_call\"|<tool_call>|\"action\"|<function_call>|\"tool_calls\"",
        r"[^!?]{0,80}?\b(?:shell|exec|execute|delete\w*|terminal|bash|transfer\w*|wipe|send_email|run_command|rm\b|drop)[^!?]{0,120}?(?:args|arguments|parameters|input|command|cmd|path|to|amount)",
    ),
    ordered(
        C::ToolAbuse,
        High,
        "transfer|wire|pay|send|withdraw|buy|purchase",
        r"(?:transfer|wire|pay|send|withdraw|buy|purchase) (?:all|the|my|every|\$|usd|eur|\d)[^.!?]{0,60}?(?:funds|money|balance|bitcoin|btc|eth|crypto|\$ ?\d+|\d+ (?:dollars|usd|eur|euros)|savings|gift cards?)[^.!?]{0,60}?(?:to (?:account|wallet|iban|this|my|the following|address|the attacker)|without|silently|immediately|now)",
    ),
    ordered(
        C::ToolAbuse,
        High,
        "delete|wipe|erase|destroy|remove|format",
        r"(?:delete|wipe|erase|destroy|remove|format) (?:all|every|the entire|everything|each|any)<N6>(?:files?|users?|records?|database|backups?|tables?|disk|drive|emails?|accounts?|logs?|repositor\w+|branches|system)\b[^.!?]{0,50}?(?:without|silently|immediately|now\b|right away|do not ask|then|before anyone|and (?:then|do not|don't|cover|hide))",
    ),
    // An attack inside an encoding, announced.
    ordered(
        C::EncodedPayload,
        High,
        "decode|decrypt|deobfuscate|unscramble|decipher|base64-decode|reverse|unpack",
        r"(?:decode|decrypt|deobfuscate|unscramble|decipher|base64-decode|reverse|unpack)<N6>(?:base64|hex|rot13|cipher\w*|messages?|strings?|text|payload|instructions?|sentence|characters|letters|blob)\b[^!?]{0,120}?\b(?:follow|execute|obey|run (?:it|the|what)|do (?:what|as)|comply|act (?:on|accordingly)|carry out|perform)",
    ),
    marked(
        C::EncodedPayload,
        Medium,
        "eval(atob|exec(base64|base64 -d |base64 --decode|frombase64string|string.fromcharcode",
        r"(?:eval\(atob|exec\(base64|base64 (?:-d|--decode) ?\|\s?(?:ba)?sh|.*frombase64string|string\.fromcharcode\(\d+(?: ?, ?\d+){6,})",
    ),
    ordered(
        C::CompressionBomb,
        Medium,
        "repeat",
        r"repeat (?:the )?(?:word|letter|phrase|token|sentence|string|following)[^.!?]{0,60}? (?:forever|endlessly|infinitely|indefinitely|\d{4,} times|a (?:million|billion|thousand) times|until|without stopping|as many times)",
    ),
    said(
        C::FencedSystemBlock,
        Low,
        "end of",
        r"end of (?:prompt|document|input|user input|context|data)\b[^!?]{0,40}?(?:new|begin|start|system|instructions?)",
    ),
];
