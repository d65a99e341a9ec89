# Completion of meshbridge for fish. The program itself is asked; where it knows nothing, as for a file's name, fish
# completes paths.
function __meshbridge_complete
    set --local words (commandline --current-process --cut-at-cursor)
    set --local answers (env _TYPER_COMPLETE_ARGS="$words" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _MESHBRIDGE_COMPLETE=complete_fish meshbridge 2>/dev/null)
    if test -n "$answers"
        printf '%s\n' $answers
    else
        __fish_complete_path (commandline --current-token)
    end
end
complete --command meshbridge --no-files --arguments '(__meshbridge_complete)'
