# Makes an AIMET environment and exports AIMET_ENV_PYTHON in the shell that sources this file (bash or zsh):
#
#   source aimet_env_setup.sh --env_path DIR [--aimet_sdk_tar TAR]
#
# The flags are those of `npukit aimet setup-env`, which does the work.

_npukit_aimet_is_sourced() {
    if [ -n "${BASH_VERSION:-}" ]; then
        [ "${BASH_SOURCE[0]}" != "$0" ]
    elif [ -n "${ZSH_VERSION:-}" ]; then
        case "${ZSH_EVAL_CONTEXT:-}" in *:file*) return 0 ;; *) return 1 ;; esac
    else
        return 1
    fi
}

_npukit_aimet_setup() {
    local printed
    unset -f _npukit_aimet_is_sourced _npukit_aimet_setup
    if ! command -v npukit >/dev/null 2>&1; then
        echo "aimet_env_setup.sh: npukit is not on the PATH; activate the environment that it is installed in" >&2
        return 2
    fi
    printed="$(npukit aimet setup-env "$@")" || return $?
    case "$printed" in
        "export AIMET_ENV_PYTHON="*) eval "$printed" ;;
        *) printf '%s\n' "$printed" ;;
    esac
}

if _npukit_aimet_is_sourced; then
    _npukit_aimet_setup "$@"
    return "$?"
fi
echo "aimet_env_setup.sh: source it in bash or zsh, it sets a variable of your shell: source aimet_env_setup.sh --env_path DIR" >&2
# In another shell that sources it, return ends this file only; where it is executed there is nothing to return from.
return 2 2>/dev/null
exit 2
