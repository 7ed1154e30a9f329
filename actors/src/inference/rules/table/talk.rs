//! Patterns of words that address a model: orders, roles, prompts, safety.

use super::{Pattern, ordered, said};
use crate::inference::verdict::{
    Class as C,
    Severity::{Critical, High, Medium},
};

pub(super) const PATTERNS: &[Pattern] = &[
    // Orders to drop or replace the instructions in force.
    ordered(
        C::InstructionOverride,
        Critical,
        "<OVERRIDE>",
        r"[\w' ]+?\b<PRIOR>\b(?:[^\w.!?;]+\w+){0,3}?[^\w.!?;]+<ORDERS>",
    ),
    ordered(C::InstructionOverride, Medium, "<OVERRIDE>", r"(?:<OVERRIDE>)<N4><ORDERS>"),
    ordered(
        C::InstructionOverride,
        Critical,
        "<OVERRIDE>",
        r"(?:<OVERRIDE>)<N2>(?:instructions|rules|directions|directives|guidelines|commands|prompts?|orders) (?:above|before|you|given|that (?:came|were)|from (?:before|earlier|the system|your))",
    ),
    ordered(
        C::InstructionOverride,
        High,
        "<OVERRIDE>",
        r"(?:<OVERRIDE>) (?:absolutely )?(?:everything|anything|whatever|all)(?: of)?(?: that| what| which|thing)? (?:(?:\w+ ){0,2}(?:you (?:were|have|know|learned|learnt|read|saw)|i said|we (?:said|discussed)|was (?:said|written)|came before|above|before|prior|previously|up to)|else you)",
    ),
    said(
        C::InstructionOverride,
        High,
        "instructions|rules|guidelines|directives|everything|prompt|the text|all text|orders|directions|commands|restrictions|limits",
        r"(?:instructions|rules|guidelines|directives|everything|prompt|the text|all text|orders|directions|commands|restrictions|limits)(?: (?:above|before this|so far|you (?:were|have been) given|up to now|until now))? (?:is|are|was|were)(?: all| only| now| just)* (?:a test|void|null|fake|cancell?ed|obsolete|outdated|no longer (?:valid|apply|in (?:force|effect)|relevant|binding)|irrelevant|invalid|revoked|superseded)",
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
        High,
        "note to|attention|message to|instructions for|instruction for|message for|note for|dear",
        r"(?:note|attention|message|instructions?|dear)(?: to| for|,)?(?: the| any| all)?,? ?(?:ai|llm|llms|language models?|assistant|chatbot|bot|model|copilot|gpt|ai \w+|reviewing ai)s?\b ?[:,]",
    ),
    ordered(
        C::InstructionOverride,
        High,
        "<OVERRIDE>",
        r"(?:<OVERRIDE>) (?:all |everything in )?(?:of )?(?:the |this )?(?:above|preceding|previous|prior) (?:text|paragraphs?|content|conversation|context|prompt)\b",
    ),
    ordered(
        C::InstructionOverride,
        High,
        "don't bother with|do not bother with|never mind|pay no attention to|don't listen to|do not listen to",
        r"(?:don't bother with|do not bother with|never mind|pay no attention to|don't listen to|do not listen to)[^.!?]{0,50}?(?:told you|instruct\w*|rules|guidelines|your (?:developers?|makers?|creators?|operators?)|system prompt|said before)",
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
    ordered(C::SystemPromptLeak, High, "<SHOW>", r"(?:<SHOW>)<N6><PROMPT>"),
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
    ordered(
        C::SystemPromptLeak,
        High,
        "<SHOW>",
        r"(?:<SHOW>)<N4>(?:everything|all (?:the )?(?:text|words|content|messages)|the (?:text|words|content|messages?|sentences?)|what(?:ever)?(?: \w+)?)(?: that)?(?: (?:is|was|were|came|comes|appears?|written))? ?(?:above|before this|prior to this|preceding|from the (?:start|beginning|top)|at the (?:start|beginning|top))",
    ),
    // Asks to switch safety off.
    ordered(C::Jailbreak, High, "<SWITCH>", r"(?:<SWITCH>)<N4><SAFETY>"),
    ordered(
        C::Jailbreak,
        High,
        "answer|respond|reply|comply|speak|write|explain|tell me|describe|give me|generate|act|operate|provide|continue",
        r"(?:answer|respond|reply|comply|speak|write|explain|tell me|describe|give me|generate|act|operate|provide|continue)[^.!?]{0,80}? (?:without|with no|with zero|free of) (?:any |all )?(?:\w+ (?:or|and) )?(?:moral |ethical |safety |content )?(?:restrictions?|censorship|filters?|filtering|disclaimers?|warnings|limitations|judge?ments?|ethics|morals|moral|guardrails|refusals?|safety|guidelines)",
    ),
    ordered(
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
];
