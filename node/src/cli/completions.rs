//! `skep completions`: completion of subcommands and flags, read off the command itself.

use clap::{CommandFactory, ValueEnum};

use super::Cli;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell to complete for
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let mut words = Vec::new();
    collect(&command, "", &mut words);
    let script = match args.shell {
        Shell::Bash => bash(&words),
        Shell::Fish => fish(&words),
        Shell::Zsh => format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash(&words)),
    };
    Ok(output.line(&script)?)
}

/// A chain of subcommands, and what may follow it.
struct Words {
    chain: String,
    next: Vec<String>,
}

fn collect(command: &clap::Command, chain: &str, words: &mut Vec<Words>) {
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let names = subcommands.map(|subcommand| subcommand.get_name().to_owned());
    let flags = command.get_arguments().filter_map(|flag| flag.get_long());
    let next = names.chain(flags.map(|flag| format!("--{flag}"))).collect();
    words.push(Words { chain: chain.to_owned(), next });
    for subcommand in command.get_subcommands() {
        let chain = format!("{chain} {}", subcommand.get_name());
        collect(subcommand, chain.trim(), words);
    }
}

fn bash(words: &[Words]) -> String {
    let arms = words.iter().map(|w| format!("    '{}') next='{}' ;;\n", w.chain, w.next.join(" ")));
    let arms: String = arms.collect();
    format!(
        "_skep() {{
  local word chain= next=
  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
    [[ $word == -* ]] || chain=\"${{chain:+$chain }}$word\"
  done
  case \"$chain\" in
{arms}  esac
  COMPREPLY=($(compgen -W \"$next\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
  [[ ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -F _skep skep"
    )
}

fn fish(words: &[Words]) -> String {
    let mut script = String::from(
        "function __skep_chain\n  set -l words (commandline -opc)[2..-1]\n  \
         string match -v -- '-*' $words | string join ' '\nend\n",
    );
    for Words { chain, next } in words {
        let test = format!("test (string join ' ' -- (__skep_chain)) = '{chain}'");
        let next = next.join(" ");
        script.push_str(&format!("complete -c skep -n \"{test}\" -a '{next}'\n"));
    }
    script
}
