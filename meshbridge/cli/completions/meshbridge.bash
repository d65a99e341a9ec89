# Completion of meshbridge for bash 4.4 or newer. The program itself is asked; where it knows nothing, as for a file's
# name, bash completes as usual.
_meshbridge() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _MESHBRIDGE_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _meshbridge meshbridge
