# What bash reads before each script under `npukit aic-run` (BASH_ENV). NPUKIT_AIC_ROOT is the folder that stands in for /opt/qti-aic.

# Paths that are put together while a script runs: bash looks a command up among its functions first, whatever its name.
for npukit_tool in "$NPUKIT_AIC_ROOT"/{exec,tools,scripts/*}/qaic-*; do
    eval "/opt/qti-aic${npukit_tool#"$NPUKIT_AIC_ROOT"}() { \"$npukit_tool\" \"\$@\"; }"
done
unset npukit_tool

# Paths in the text of the script. The file itself stays as it is, and $0 and BASH_SOURCE name it.
if [ -n "${BASH_EXECUTION_STRING+set}" ]; then
    npukit_text=$BASH_EXECUTION_STRING
elif [ -f "$0" ]; then
    npukit_text=$(cat -- "$0" | tr -d '\0')
fi
case ${npukit_text-} in
*/opt/qti-aic*)
    npukit_source=("$0")
    for npukit_flag in $(tr '\0' '\n' </proc/$$/cmdline 2>/dev/null | sed 1d); do # bash has set -e aside while it reads this file
        case $npukit_flag in
        --*) ;;
        -*e*) set -e ;;
        -*) ;;
        *) break ;;
        esac
    done
    npukit_text=${npukit_text//\/opt\/qti-aic/$NPUKIT_AIC_ROOT}
    eval "${npukit_text//BASH_SOURCE/npukit_source}"
    exit
    ;;
esac
unset npukit_text
