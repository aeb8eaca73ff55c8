# bash completion for sluice; made from its option tables: `sluice completion bash`.
_sluice() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i
  # "--mock=FILE" comes as three words
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      run|repl|test|mock|token|types|completion|help|version) command=${COMP_WORDS[i]}; break ;;
    esac
  done
  local options= words=
  case $command in
    run) options="-e --timeout -t --mock --seed --max-memory --max-burst --trace --log-level --log-format --log-file --metrics --metrics-file --metrics-otlp --report --quiet -q --verbose -v --lib --help -h --version" words="@files" ;;
    repl) options="--timeout -t --mock --seed --max-memory --max-burst --trace --log-level --log-format --log-file --metrics --metrics-file --metrics-otlp --report --quiet -q --verbose -v --lib --help -h --version" words="@files" ;;
    test) options="--filter -f --tap --seed --log-level --log-format --quiet -q --verbose -v --lib --help -h --version" words="@files" ;;
    mock) options="--port -p --address --scenario --seed --pace --log --quiet -q --verbose -v --lib --help -h --version" words="@files" ;;
    token) options="--json --min-life --new --timeout -t --mock --seed --max-memory --max-burst --trace --log-level --log-format --log-file --metrics --metrics-file --metrics-otlp --report --quiet -q --verbose -v --lib --help -h --version" words="@files" ;;
    types) options="--help -h --version" words="@folders" ;;
    completion) options="--help -h --version" words="bash fish zsh" ;;
    help) options="--help -h --version" words="run repl test mock token types completion help version" ;;
    version) options="--json --help -h --version" words="" ;;
    '') options="-e --timeout -t --mock --seed --max-memory --max-burst --trace --log-level --log-format --log-file --metrics --metrics-file --metrics-otlp --report --quiet -q --verbose -v --lib --help -h --version" words="run repl test mock token types completion help version" ;;
  esac
  case $command:$prev in
    run:--log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$cur")); return ;;
    :--log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$cur")); return ;;
    run:--log-format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
    :--log-format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
    run:--mock|:--mock|run:--trace|:--trace|run:--log-file|:--log-file|run:--metrics-file|:--metrics-file|run:--report|:--report) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    run:--lib|:--lib) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
    run:-e|:-e|run:--timeout|:--timeout|run:-t|:-t|run:--seed|:--seed|run:--max-memory|:--max-memory|run:--max-burst|:--max-burst|run:--metrics|:--metrics|run:--metrics-otlp|:--metrics-otlp)  return ;;
    repl:--log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$cur")); return ;;
    repl:--log-format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
    repl:--mock|repl:--trace|repl:--log-file|repl:--metrics-file|repl:--report) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    repl:--lib) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
    repl:--timeout|repl:-t|repl:--seed|repl:--max-memory|repl:--max-burst|repl:--metrics|repl:--metrics-otlp)  return ;;
    test:--log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$cur")); return ;;
    test:--log-format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
    test:--lib) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
    test:--filter|test:-f|test:--seed)  return ;;
    mock:--scenario) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    mock:--lib) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
    mock:--port|mock:-p|mock:--address|mock:--seed|mock:--pace)  return ;;
    token:--log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$cur")); return ;;
    token:--log-format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
    token:--mock|token:--trace|token:--log-file|token:--metrics-file|token:--report) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    token:--lib) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
    token:--min-life|token:--timeout|token:-t|token:--seed|token:--max-memory|token:--max-burst|token:--metrics|token:--metrics-otlp)  return ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
  elif [[ $words == @folders ]]; then
    compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur"))
  elif [[ $words == @files ]]; then
    compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [[ -z $command ]]; then compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur")); fi
  fi
}
complete -F _sluice sluice
