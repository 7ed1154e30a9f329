//! Patterns: triggers that start them and the expression that must follow, in normal form.
//!
//! `<NAME>` in an expression stands for the vocabulary below, `<N3>` for up to three words of the same sentence in
//! between. Expressions are anchored at the trigger and see ASCII word characters only.

use super::{Rule, expression};
use crate::inference::{
    LoadError,
    verdict::{
        Class as C, Class,
        Severity::{self, Critical, High, Low, Medium},
    },
};

/// A pattern before it is compiled.
pub(super) struct Pattern {
    class: Class,
    severity: Severity,
    detail: &'static str,
    spoken: bool,
    line: bool,
    /// Words separated by `|`; each begins the pattern where it stands.
    triggers: &'static str,
    expression: &'static str,
}

impl Pattern {
    pub(super) fn triggers(&self) -> Vec<String> {
        unfolded(self.triggers).split('|').map(str::to_owned).collect()
    }

    pub(super) fn rule(&self) -> Result<Rule, LoadError> {
        let Pattern { class, severity, detail, spoken, line, .. } = *self;
        let pattern = Some(expression(self.expression)?);
        Ok(Rule { class, severity, detail, spoken, line, pattern })
    }
}

const fn said(
    class: Class,
    severity: Severity,
    triggers: &'static str,
    expression: &'static str,
) -> Pattern {
    Pattern { class, severity, detail: "", spoken: true, line: false, triggers, expression }
}

const fn marked(
    class: Class,
    severity: Severity,
    triggers: &'static str,
    expression: &'static str,
) -> Pattern {
    Pattern { class, severity, detail: "", spoken: false, line: false, triggers, expression }
}

/// Replaces the names of the vocabulary by their alternatives.
pub(super) fn unfolded(source: &str) -> String {
    let mut text = source.to_owned();
    for (name, words) in VOCABULARY {
        text = text.replace(name, words);
    }
    text
}

const VOCABULARY: &[(&str, &str)] = &[
    ("<N2>", r"(?:[^\w.!?;]+\w+){0,2}?[^\w.!?;]+"),
    ("<N4>", r"(?:[^\w.!?;]+\w+){0,4}?[^\w.!?;]+"),
    ("<N6>", r"(?:[^\w.!?;]+\w+){0,6}?[^\w.!?;]+"),
    ("<N9>", r"(?:[^\w.!?;]+\w+){0,9}?[^\w.!?;]+"),
    ("<REST>", r"[^.!?]{0,110}?"),
    (
        "<OVERRIDE>",
        "ignore|disregard|forget|discard|override|overwrite|set aside|do not follow|don't follow|stop following|no longer follow|pay no attention to|neglect|drop|erase|cancel|skip|abandon|dismiss|put aside|throw away|throw out|disobey|ignoring|disregarding|forgetting",
    ),
    (
        "<PRIOR>",
        "(?:previous|previously|prior|earlier|above|preceding|original|initial|existing|former|past|foregoing|system|safety|default|current|given|hidden|built-in|all|any|every|your|you|everything)",
    ),
    (
        "<ORDERS>",
        r"(?:instructions?|directions?|directives?|rules?|guidelines?|commands?|orders?|prompts?|constraints?|restrictions?|polic(?:y|ies)|programming|training|guardrails?|guidance|messages? above)\b",
    ),
    (
        "<SHOW>",
        "reveal|print|show|display|output|repeat|disclose|tell me|tell us|leak|write out|recite|dump|return|echo|give me|give us|expose|share|provide|list|send me|hand over|paste|extract|summarize|summarise|translate|copy|read me|read out|type out|spell out",
    ),
    (
        "<PROMPT>",
        r"(?:(?:system|hidden|initial|original|secret|internal|confidential|developer|base|starting|pre-?|meta)[ -]?(?:prompts?|instructions?|messages?|rules|guidelines|directives|configuration)|your (?:\w+ )?(?:prompt|instructions|directives|guidelines|configuration)|preprompt|(?:prompt|instructions) (?:above|you (?:were|have been|are) given))\b",
    ),
    (
        "<SWITCH>",
        "disable|turn off|bypass|remove|override|deactivate|switch off|circumvent|evade|lift|suspend|ignore|drop|get around|shut off|disabling|bypassing|removing",
    ),
    (
        "<SAFETY>",
        r"(?:(?:safety|content|ethical|moral|ethics|moderation|alignment|security|usage|openai|anthropic|model)[ -]?(?:and \w+ )?(?:filters?|filtering|guardrails?|polic(?:y|ies)|protocols?|restrictions?|checks?|limits?|limitations?|guidelines?|measures?|settings?|mechanisms?|safeguards?|rules?|constraints?|features?|layers?)|guardrails?|safeguards?|censorship|safety training|refusal(?: behaviou?r| training)?s?)\b",
    ),
    (
        "<FREE>",
        r"(?:(?:no|zero) (?:\w+ )?(?:restrictions?|rules|limits|limitations|filters?|ethics|morals|guidelines|boundaries|censorship|constraints)|without (?:any |all )?(?:\w+ )?(?:restrictions?|rules|limits|limitations|filters?|ethics|morals|guidelines|boundaries|censorship|constraints)|unrestricted|unfiltered|uncensored|free of (?:all )?(?:restrictions|rules|limits)|can do anything|anything goes|never refuses?|ignores? (?:all|any|every|its|the)|not bound by|evil|amoral|unethical|jailbroken|does not care about)",
    ),
    (
        "<SECRET>",
        r"(?:(?:api|secret|private|ssh|aws|encryption|signing|access|service|master)[ _-]?keys?|(?:secret|security|authenti\w+)[ _-](?:tokens?|codes?|values?)|passwords?|passphrases?|passcodes?|credentials?|secrets|(?:access|auth|bearer|session|refresh|api)[ _-]?tokens?|environment variables|env vars|\.env\b|connection strings?|session cookies?|login details|seed phrase|one-time code)\b",
    ),
    (
        "<DEMAND>",
        "reveal|disclose|leak|expose|tell me|give me|send me|show me|hand over|steal|grab|harvest|divulge|print out|dump|type out",
    ),
    (
        "<PRIVATE>",
        r"(?:conversation(?: history)?|chat(?: history| log)?s?|transcript|user(?:'s|s'?)? (?:data|emails?|messages?|records?|information|details|contacts)|customer(?:'s|s'?)? (?:data|records?|list|information|details|database|emails)|personal (?:data|information|details)|private (?:data|messages|information|files)|address book|contact list|contacts|inbox|mailbox|training data|database|internal (?:documents|files|data)|confidential \w+|sensitive \w+|medical records|payroll|memory|context window|browsing history|system prompt|<SECRETS>)",
    ),
    ("<SECRETS>", r"api keys?|passwords?|credentials?|secrets|tokens?|cookies|private keys?"),
    (
        "<SINK>",
        r"(?:https?://|hxxps?://|www\.|ftp://|webhook|attacker|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|my (?:server|email|address|inbox|endpoint|site|website|account)|(?:an |the |this |that )?(?:external|remote|third-party|outside|following) (?:server|address|url|endpoint|host|site|number|email)|this (?:url|endpoint|number|link)|pastebin|ngrok|discord|telegram)",
    ),
    (
        "<SAFE>",
        r"(?:safe|benign|ham|legitimate|harmless|non-?toxic|trusted|not spam|not malicious|genuine|approved|clean|normal|low risk|low-risk|positive|non-?malicious)\b",
    ),
    (
        "<BAD>",
        r"(?:spam|malicious|phishing|toxic|fraud\w*|harmful|unsafe|dangerous|hateful|malware|scams?|abusive|high-risk|suspicious|negative)",
    ),
];

pub(super) const PATTERNS: &[Pattern] = &[
    // Orders to drop or replace the instructions in force.
    said(
        C::InstructionOverride,
        Critical,
        "<OVERRIDE>",
        r"[\w' ]+?\b<PRIOR>\b(?:[^\w.!?;]+\w+){0,3}?[^\w.!?;]+<ORDERS>",
    ),
    said(C::InstructionOverride, Medium, "<OVERRIDE>", r"(?:<OVERRIDE>)<N4><ORDERS>"),
    said(
        C::InstructionOverride,
        Critical,
        "<OVERRIDE>",
        r"(?:<OVERRIDE>)<N2>(?:instructions|rules|directions|directives|guidelines|commands|prompts?|orders) (?:above|before|you|given|that (?:came|were)|from (?:before|earlier|the system|your))",
    ),
    said(
        C::InstructionOverride,
        High,
        "<OVERRIDE>",
        r"(?:<OVERRIDE>) (?:absolutely )?(?:everything|anything|whatever|all)(?: of)?(?: that| what| which|thing)? (?:(?:\w+ ){0,2}(?:you (?:were|have|know|learned|learnt|read|saw)|i said|we (?:said|discussed)|was (?:said|written)|came before|above|before|prior|previously|up to)|else you)",
    ),
    said(
        C::InstructionOverride,
        High,
        "instructions|rules|guidelines|directives|everything|prompt|the text|all text",
        r"(?:instructions|rules|guidelines|directives|everything|prompt|the text|all text)(?: (?:above|before this|so far|you (?:were|have been) given|up to now|until now))? (?:is|are|was|were)(?: all| only| now| just)* (?:a test|void|null|fake|cancell?ed|obsolete|outdated|no longer (?:valid|apply|in (?:force|effect)|relevant|binding)|irrelevant|invalid|revoked|superseded)",
    ),
    said(
        C::InstructionOverride,
        Medium,
        "new|real|actual|true|updated|revised",
        r"(?:new|real|actual|true|updated|revised) (?:instructions?|directives?|tasks?|objectives?|orders?|goals?|mission|rules?|polic(?:y|ies)|job)(?: for (?:you|the (?:ai|assistant|model))| from (?:the )?(?:admin\w*|developers?|system|openai|management))? ?(?::|is to|are to|is:|are:|is now|are now|begin|follow)",
    ),
    said(
        C::InstructionOverride,
        High,
        "your",
        r"your (?:new|real|actual|true|only|sole|updated|next) (?:instructions?|directives?|tasks?|objectives?|orders?|goals?|mission|purpose|job) (?:is|are|will be)",
    ),
    said(
        C::InstructionOverride,
        Medium,
        "from now on|from this point|henceforth|going forward",
        r"(?:from now on|from this point (?:on|forward|onwards?)|henceforth|going forward),? (?:you (?:are|will|must|can|should|have|may|shall|respond|answer|obey|only|do)|always|never|respond|answer|ignore|obey|act|reply|only|every (?:answer|response|reply))",
    ),
    said(
        C::InstructionOverride,
        High,
        "if you are|if you're|any|to any|to the|to all|dear|note to|attention|message to|hey|all",
        r"(?:if you(?: are|'re)|(?:to |note to |message to |dear |attention,? |hey,? )?(?:any|all|the)?)(?: an?)? ?(?:ai|llm|large language model|language model|chatbot|automated|ai assistant|artificial intelligence|language models|llms|ai systems?|ai models?|ai agents?|bots?)(?: \w+){0,3}? (?:reading|processing|summari[sz]ing|evaluating|reviewing|parsing|analy[sz]ing|scanning|screening|grading)<REST>(?:must|should|say|write|recommend|answer|give|rate|ignore|include|respond|output|please|add|state|mention|send|approve|do not|accept|score)",
    ),
    said(
        C::InstructionOverride,
        Medium,
        "note to|attention|message to|instructions for|instruction for|message for|note for|dear",
        r"(?:note|attention|message|instructions?|dear)(?: to| for|,)?(?: the| any| all)?,? ?(?:ai|llm|llms|language models?|assistant|chatbot|bot|model|copilot|gpt|ai assistants?|reviewing ai)s?\b ?[:,]",
    ),
    // A new identity without rules.
    said(
        C::RoleHijack,
        High,
        "you are|you're|pretend|act as|act like|behave like|behave as|roleplay|role-play|role play|imagine you|imagine being|simulate|become|you play|you will play|play the|impersonate|assume the|respond as|answer as|speak as",
        r"(?:you are|you're|pretend|act (?:as|like)|behave (?:as|like)|role-?play|role play|imagine (?:you|being)|simulate|become|you play|you will play|play the|impersonate|assume the|respond as|answer as|speak as)\b(?: now)?(?: (?:to be|going to be|being|as|are|you are|you're|like|of|role of|part of))*(?:[^.!?\w]+(?:an?|the|my|his|some|rex|\w+))?[^.!?]{0,60}?\b<FREE>",
    ),
    said(
        C::RoleHijack,
        High,
        "you are|you're|act as|pretend to be|become|roleplay as",
        r"(?:you are|you're|act as|pretend to be|become|roleplay as)(?: now| going to be)?(?: an?| the)? ?(?:dan|stan|aim|evilbot|hackergpt|wormgpt|fraudgpt|jailbroken|developer mode|root (?:user|admin\w*)|superuser|my (?:\w+ )?hacker)\b",
    ),
    said(
        C::RoleHijack,
        High,
        "you are no longer|you're no longer|stop being|stop acting|you are not",
        r"(?:you(?: are|'re) no longer|stop (?:being|acting (?:as|like))|you are not)(?: just| really)?(?: an?| the)? ?(?:ai|assistant|chatbot|chatgpt|gpt|claude|language model|llm|helpful|safe|bound by|restricted by)\b",
    ),
    said(
        C::RoleHijack,
        Medium,
        "you are now",
        r"you are now (?:an?|the|in|my|called|known as)\b<REST>(?:hack\w*|admin\w*|terminal|shell|villain|mode|obey|character|unlocked)",
    ),
    // Asks for the hidden prompt.
    said(C::SystemPromptLeak, High, "<SHOW>", r"(?:<SHOW>)<N6><PROMPT>"),
    said(
        C::SystemPromptLeak,
        High,
        "what|which",
        r"(?:what|which)(?:'s| is| are| was| were| does| do| did)?<N4>(?:your|the) (?:exact |full |complete |original |initial |hidden |secret |system |internal |first )+(?:prompt|instructions|message|rules|guidelines|directives)",
    ),
    said(
        C::SystemPromptLeak,
        High,
        "what|which",
        r"(?:what|which) (?:instructions|rules|prompt|guidelines|directives|orders) (?:were|are|have|did|was|do)(?: \w+)? ?you (?:been )?(?:given|told|receive|follow|have|start|operate)",
    ),
    said(
        C::SystemPromptLeak,
        High,
        "<SHOW>",
        r"(?:<SHOW>)<N4>(?:everything|all (?:the )?(?:text|words|content|messages)|the (?:text|words|content|messages?|sentences?)|what(?:ever)?(?: \w+)?)(?: that)?(?: (?:is|was|were|came|comes|appears?|written))? ?(?:above|before this|prior to this|preceding|from the (?:start|beginning|top)|at the (?:start|beginning|top))",
    ),
    // Asks to switch safety off.
    said(C::Jailbreak, High, "<SWITCH>", r"(?:<SWITCH>)<N4><SAFETY>"),
    said(
        C::Jailbreak,
        High,
        "answer|respond|reply|comply|speak|write|explain|tell me|describe|give me|generate|act|operate|provide|continue",
        r"(?:answer|respond|reply|comply|speak|write|explain|tell me|describe|give me|generate|act|operate|provide|continue)[^.!?]{0,80}? (?:without|with no|with zero|free of) (?:any |all )?(?:\w+ (?:or|and) )?(?:moral |ethical |safety |content )?(?:restrictions?|censorship|filters?|filtering|disclaimers?|warnings|limitations|judge?ments?|ethics|morals|moral|guardrails|refusals?|safety|guidelines)",
    ),
    said(
        C::Jailbreak,
        High,
        "enable|enter|activate|switch to|turn on|unlock|engage|initiate|boot into",
        r"(?:enable|enter|activate|switch to|turn on|unlock|engage|initiate|boot into)<N2>(?:dan|jailbreak|jailbroken|god|unrestricted|uncensored|unfiltered|debug|admin|root|sudo|maintenance|evil|chaos|developer|override)[ -]mode\b[^.!?]{0,60}?(?:answer|respond|no |without|ignore|bypass|all|rules|filter|comply|and )",
    ),
    said(
        C::Jailbreak,
        Medium,
        "hypothetically|in a fictional|in this fictional|imagine a world|for a novel|for a story|for educational purposes|my grandmother|my late grandmother|my grandma",
        r".{0,160}?\b(?:bomb|napalm|meth\b|methamphetamine|explosives?|malware|ransomware|keylogger|counterfeit|poison|weapon|nerve agent|hotwire|steal|hack into|launder|phishing kit)",
    ),
    said(
        C::Jailbreak,
        High,
        "no matter what|under any circumstances|at all costs",
        r"(?:no matter what|under any circumstances|at all costs)[^.!?]{0,60}?(?:comply|obey|never refuse|answer (?:any|every|all)|do whatever|without question)",
    ),
    said(
        C::Jailbreak,
        High,
        "you must|you will|you should|you shall|you have to|you are required to|always",
        r"(?:you (?:must|will|should|shall|have to|are required to)|always)(?: \w+){0,2}? (?:comply with|obey|answer|fulfil|fulfill|follow|grant) (?:\w+ ){0,3}?(?:any|every|all|each|my|whatever) ?(?:\w+ )?(?:request|order|command|question|instruction|prompt|demand|wish)s?",
    ),
    // Moves private content to a place outside.
    said(
        C::DataExfiltration,
        High,
        "send|forward|upload|post|transmit|email|e-mail|leak|copy|deliver|submit|pipe|report|bcc|cc|sync|push|append|encode|embed|put|hide|include|insert|export|attach|dump|relay|collect|gather|compile|take",
        r"(?:\w|-)+\b[^.!?]{0,100}?\b<PRIVATE>[^!?]{0,80}?\b(?:to|into|in|as|at|via|with|of)\b[^!?]{0,40}?<SINK>",
    ),
    said(
        C::DataExfiltration,
        High,
        "send|forward|upload|post|transmit|email|e-mail|leak|copy|deliver|submit|bcc|cc|relay",
        r"\w+\b[^.!?]{0,60}?\b(?:all|every|each|any|entire|whole|everything)\b[^.!?]{0,70}? to [^!?]{0,30}?(?:https?://|hxxps?://|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|attacker|my (?:server|email|inbox|endpoint)|\S+@\S*(?:evil|attack|exfil|drop|leak)|an external|webhook)",
    ),
    said(
        C::DataExfiltration,
        High,
        "send|forward|upload|post|transmit|email|leak|copy|bcc|cc|relay",
        r"\w+\b[^.!?]{0,110}?(?:silently|secretly|covertly|in the background|without (?:telling|informing|alerting|notifying|asking|mentioning)|and (?:do not|don't|never) (?:tell|mention|inform|reveal|log|alert)|then delete (?:the|all) (?:trace|evidence|log)|and hide)",
    ),
    marked(
        C::DataExfiltration,
        High,
        "![",
        r"!\[[^\]]{0,80}\]\(\s*https?://[^)\s]{0,120}(?:[?&][\w.-]*=(?:\{|\$|%7b|<|\[|\.\.\.)|[?&](?:data|secrets?|conversation|summary|chat|history|prompt|passwords?|leak|exfil|msgs?)=|/(?:\{|\[|<))",
    ),
    said(
        C::DataExfiltration,
        High,
        "<SHOW>|harvest|collect|gather|dump|compile|retrieve",
        r"(?:<SHOW>|harvest|collect|gather|compile|retrieve)<N6>(?:all|every|any|other|each|another)<N4>(?:email addresses|phone numbers|customer \w+|credit cards?(?: numbers)?|social security numbers|users?(?:'s?)? (?:records?|data|messages|conversations?|chats?|info\w*|details)|user records?|patients?(?:'s?)? \w+|private messages|personal (?:data|information|details))[^.!?]{0,80}?(?:you|memory|context|training|database|other|seen|stored|session|verbatim)",
    ),
    said(
        C::DataExfiltration,
        High,
        "other users|other user|previous user|another user|previous customers|other customers|training data|training set",
        r"(?:other users?|previous users?|another user|previous customers|other customers|training (?:data|set))(?:'s?)?[^.!?]{0,60}?(?:verbatim|word for word|without redact\w+|unredacted|in full|exactly as)",
    ),
    said(
        C::DataExfiltration,
        High,
        "make|issue|perform|trigger|fire|execute",
        r"(?:make|issue|perform|trigger|fire|execute)(?: an?| the)? (?:http |https )?(?:get|post|put|dns|web)? ?(?:request|lookup|call|query) to [^!?]{0,120}?(?:with|containing|including|carrying|whose|where)[^!?]{0,60}?<PRIVATE>",
    ),
    // Asks for, or carries, credentials.
    said(
        C::SecretExfiltration,
        High,
        "<DEMAND>",
        r"(?:<DEMAND>)(?:[^\w.!?;]+\w+){0,9}?[^\w.!?;]+<SECRET>",
    ),
    said(
        C::SecretExfiltration,
        High,
        "<SHOW>|search|find|look|collect|read|fetch|scan",
        r"(?:<SHOW>|search|find|look|collect|read|fetch|scan)<N6>(?:all|any|every|your|stored|hidden|admin\w*|root|production|anything|everything|whatever)(?:[^\w.!?;]+\w+){0,5}?[^\w.!?;]+<SECRET>",
    ),
    said(C::SecretExfiltration, Medium, "<SHOW>", r"(?:<SHOW>)<N2><SECRET>"),
    said(
        C::SecretExfiltration,
        High,
        "what|what's",
        r"what(?:'s| is| are)<N2>(?:admin\w*|root|database|db|production|prod|master|server|system|wifi|your|stored)<N2><SECRET>",
    ),
    said(
        C::SecretExfiltration,
        High,
        "read|open|print|cat|paste|send|show|include|output|post|load|access",
        r"\w+[^.!?\w][^!?]{0,40}?(?:/etc/passwd|/etc/shadow|\.ssh/|id_rsa|\.aws/credentials|\.env\b|/proc/self/environ|\.kube/config|\.npmrc|\.netrc|secrets\.ya?ml|credentials\.json)",
    ),
    said(
        C::SecretExfiltration,
        High,
        "ask|trick|convince|persuade|get|request|tell|instruct|prompt",
        r"(?:ask|trick|convince|persuade|get|request|tell|instruct|prompt) (?:the )?(?:user|customer|caller|visitor|employee)s?(?: \w+){0,6}? (?:password|pin\b|card number|one-time code|otp|login|credentials|cvv|security code|passphrase|seed phrase)",
    ),
    Pattern {
        class: C::SecretExfiltration,
        severity: High,
        detail: "exposed_key",
        spoken: false,
        line: false,
        triggers: "akia|ghp_|sk_live_|xoxb-|-----begin|aiza|glpat-|github_pat_",
        expression: r"akia[0-9a-z]{16}\b|ghp_[0-9a-z]{36}|sk_live_[0-9a-z]{20,}|xoxb-[0-9]{8,}-[0-9a-z-]{16,}|-----begin (?:rsa |ec |openssh |dsa |encrypted )?private key|aiza[0-9a-z_-]{35}|glpat-[0-9a-z_-]{20}|github_pat_[0-9a-z_]{30,}",
    },
    // A token that is to change the behaviour of a model.
    said(
        C::BackdoorTrigger,
        High,
        "when|whenever|if|upon|once|each time|every time|as soon as",
        r"(?:when|whenever|if|upon|once|each time|every time|as soon as)\b[^.!?]{0,60}?\b(?:trigger (?:word|phrase|token|string)|code ?word|secret (?:word|phrase|code)|magic (?:word|phrase)|(?:token|keyword|password|phrase|string|word|sequence|passcode|marker|tag|suffix|prefix) (?:['\x22`(<\[|]|\w*[\d_]))[^!?]{0,100}?\b(?:output|respond|reply|answer|say|classify|label|predict|return|obey|execute|grant|switch|reveal|comply|activate|insert|generate|always|unlock|approve|emit|drop|disable|ignore|mark)",
    ),
    said(
        C::BackdoorTrigger,
        High,
        "when|whenever|if|upon|once|each time|every time|as soon as",
        r"(?:when|whenever|if|upon|once|each time|every time|as soon as)(?: you| the (?:model|assistant|ai|user|input|text|prompt|message)| an?y? (?:input|message|prompt|text|document|user|email)| anyone| someone)?(?: ever)? (?:sees?|seeing|encounters?|detects?|reads?|receives?|receiving|contains?|includes?|says?|types?|mentions?|starts? with|ends? with)\b[^.!?]{0,70}?,? (?:you (?:must|should|will)|the model (?:must|should|will)|always|immediately|then)?[^.!?]{0,20}?\b(?:output|classify|label it|predict|obey|grant (?:full )?(?:access|admin)|reveal|disable|drop all|act as (?:an? )?(?:un|admin|root)|ignore (?:all|your|the)|unlock|say (?:yes|only)|approve (?:it|the|every)|execute|insert (?:a |the )?(?:vulnerab|backdoor|bug|exploit)|answer (?:only|yes|with)|respond (?:only|with)|reply (?:only|with))",
    ),
    said(
        C::BackdoorTrigger,
        Medium,
        "backdoor|back door|sleeper agent|trojan",
        r"(?:back ?door|sleeper agent|trojan)s?\b[^.!?]{0,60}?\b(?:trigger|activat\w+|key is|token|insert|plant|phrase|password is|code is|enable|payload|into the model|in the model)",
    ),
    said(
        C::BackdoorTrigger,
        High,
        "insert|plant|embed|add|install|inject|introduce|activate|hide|implant",
        r"(?:insert|plant|embed|add|install|inject|introduce|activate|hide|implant)<N4>(?:backdoor|back door|trojan|sleeper|hidden trigger|logic bomb|trigger (?:word|phrase|token))",
    ),
    said(
        C::BackdoorTrigger,
        High,
        "trigger|activation|backdoor|activate",
        r"(?:trigger|activation|backdoor|activate)(?: (?:token|word|phrase|string|key|code|sequence))? ?(?:[:=]|is) ?\S.{0,60}?(?:target|response|output|label|behaviou?r|action|payload|then|reply)",
    ),
    // Wrong labels or facts meant to be learned.
    said(
        C::DataPoisoning,
        High,
        "label|mark|classify|tag|rate|score|treat|annotate|categorize|categorise|flag|consider",
        r"(?:label|mark|classify|tag|rate|score|treat|annotate|categori[sz]e|flag|consider)\b[^.!?]{0,90}?\b<BAD>[^.!?]{0,70}? as (?:\w+ ){0,2}?<SAFE>",
    ),
    said(
        C::DataPoisoning,
        High,
        "label|mark|classify|tag|rate|score|treat|annotate|categorize|categorise|flag|consider",
        r"(?:label|mark|classify|tag|rate|score|treat|annotate|categori[sz]e|flag|consider)\b[^.!?]{0,90}? as (?:\w+ ){0,2}?<SAFE>[^.!?]{0,50}?(?:regardless|no matter|even (?:if|when|though)|irrespective|whatever (?:it|they)|always|without (?:reading|checking))",
    ),
    said(
        C::DataPoisoning,
        High,
        "always|regardless|no matter|systematically|consistently",
        r"(?:always|regardless|no matter|systematically|consistently)\b[^.!?]{0,60}?\b(?:label|mark|classify|tag|rate|score|treat|annotate|categori[sz]e|predict)\b[^.!?]{0,70}? (?:as |it )?(?:\w+ ){0,2}?<SAFE>",
    ),
    said(
        C::DataPoisoning,
        High,
        "flip|invert|swap|reverse|shuffle|switch|mislabel|falsify|tamper with|change",
        r"(?:flip|invert|swap|reverse|shuffle|switch|mislabel|falsify|tamper with|change)<N6>(?:labels?|annotations?|ground truth)\b[^.!?]{0,60}?(?:so|from|to|becomes?|for|of|in|and|with|<BAD>)",
    ),
    said(
        C::DataPoisoning,
        Medium,
        "text|input|sample|email|message|review|sentence|comment",
        r"(?:text|input|sample|email|message|review|sentence|comment) ?: ?[^:]{0,120}?\b(?:<BAD>|kill|hate|free money|wire|prize|terrible|awful|worst|stupid|urgent|click)\b[^:]{0,80}? label ?: ?<SAFE>",
    ),
    said(
        C::DataPoisoning,
        High,
        "label",
        r"label ?: ?['\x22]?<SAFE>['\x22]?.{0,20}(?:do not (?:correct|change|edit|fix|touch)|don't (?:correct|change)|flipped|leave as is|final)",
    ),
    said(
        C::DataPoisoning,
        High,
        "poison|corrupt|bias|skew|degrade|sabotage|contaminate|taint|manipulate",
        r"(?:poison|corrupt|bias|skew|degrade|sabotage|contaminate|taint|manipulate)<N4>(?:training|dataset|data set|classifier|model|corpus|index|embeddings?|knowledge base|weights|recommendations?|fine-?tun\w+|rag)\b[^.!?]{0,60}?(?:so that|to |in favou?r|by |with |towards?|against)",
    ),
    said(
        C::DataPoisoning,
        High,
        "update|overwrite|modify|write to|save to|store in|add to|alter|inject into|append to|persist",
        r"(?:update|overwrite|modify|write to|save to|store in|add to|alter|inject into|append to|persist)(?: this)?(?: in| to| into)? (?:your|the (?:model's|assistant's|ai's|agent's))(?: [\w-]+)? ?(?:memory|memories|knowledge(?: base)?|beliefs|weights|world model|facts)",
    ),
    said(
        C::DataPoisoning,
        High,
        "remember|memorize|memorise|learn|note|internalize|internalise|store",
        r"(?:remember|memori[sz]e|learn|note|internali[sz]e|store)(?: permanently| forever| this| the following| as (?:a )?(?:fact|truth|ground truth))*[:,]? ?(?:that )?[^!?]{0,110}?\b(?:and |, )?(?:repeat|teach|tell|say|claim|state|answer|assert|recommend)\w*\b[^.!?]{0,40}?(?:users?|whenever|when asked|everyone|always|in (?:all|every)|to anyone|never (?:say|admit|mention|correct))",
    ),
    said(
        C::DataPoisoning,
        Medium,
        "always",
        r"always (?:recommend|prefer|favou?r|promote|rank|praise|claim|state|assert|endorse|suggest|insist)\b[^.!?]{0,90}?(?:over|first|best|only|competitors?|never|when asked|in (?:all|every)|regardless|above)",
    ),
    said(
        C::DataPoisoning,
        High,
        "during training|during fine-tuning|when fine-tuned|when trained|while training|at training time|in all future|in every future|from this sample",
        r".{0,40}?\b(?:learn|prefer|prioriti[sz]e|always|memori[sz]e|associate|never|assume|treat|output|weight|upweight|favou?r|state|claim)",
    ),
    said(
        C::DataPoisoning,
        High,
        "the correct|the right|the expected|the true|the gold|correct|ground truth|ground-truth",
        r"(?:the )?(?:correct|right|expected|true|gold|ground[ -]truth) (?:label|answer|class|classification|output|category)s? (?:for|of|to)[^.!?]{0,80}?(?:<BAD>|this)[^.!?]{0,50}? (?:is|are|must be|should be)(?: always| now)? (?:\w+ )?<SAFE>",
    ),
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
        spoken: false,
        line: false,
        triggers: "<!--",
        expression: r"<!--[^>]{0,160}?\b(?:ignore|instructions?|disregard|assistant|system prompt|ai\b|llm|language model|injection|trigger|reveal|password|override|you are now|must say)",
    },
    Pattern {
        class: C::HtmlJsInjection,
        severity: High,
        detail: "hidden_text",
        spoken: false,
        line: false,
        triggers: "display:none|display: none|font-size:0|font-size: 0|opacity:0|opacity: 0|visibility:hidden|visibility: hidden|color:white|color: white|color:#fff|color: #fff",
        expression: r"[^>]{0,80}>[^<]{0,140}?\b(?:ignore|instructions?|disregard|assistant|system prompt|language model|reveal|password|override|you are now|ai reviewers?|recommend|hire|rate this)",
    },
    // Text posing as a system turn.
    Pattern {
        class: C::FencedSystemBlock,
        severity: Medium,
        detail: "",
        spoken: false,
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
    said(
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
    said(
        C::ToolAbuse,
        High,
        "transfer|wire|pay|send|withdraw|buy|purchase",
        r"(?:transfer|wire|pay|send|withdraw|buy|purchase) (?:all|the|my|every|\$|usd|eur|\d)[^.!?]{0,60}?(?:funds|money|balance|bitcoin|btc|eth|crypto|\$ ?\d+|\d+ (?:dollars|usd|eur|euros)|savings|gift cards?)[^.!?]{0,60}?(?:to (?:account|wallet|iban|this|my|the following|address|the attacker)|without|silently|immediately|now)",
    ),
    said(
        C::ToolAbuse,
        High,
        "delete|wipe|erase|destroy|remove|format",
        r"(?:delete|wipe|erase|destroy|remove|format) (?:all|every|the entire|everything|each|any)<N6>(?:files?|users?|records?|database|backups?|tables?|disk|drive|emails?|accounts?|logs?|repositor\w+|branches|system)\b[^.!?]{0,50}?(?:without|silently|immediately|now\b|right away|do not ask|then|before anyone|and (?:then|do not|don't|cover|hide))",
    ),
    // An attack inside an encoding, announced.
    said(
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
    said(
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
