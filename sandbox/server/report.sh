# Sourced by bash before each command of ours: at its end the shell writes down where it is.
trap "{ pwd -P >|'$FUMEHOOD_REPORT'; } 2>/dev/null" EXIT
unset BASH_ENV FUMEHOOD_REPORT
if [ -n "${FUMEHOOD_BASH_ENV-}" ]; then
    BASH_ENV=$FUMEHOOD_BASH_ENV
    unset FUMEHOOD_BASH_ENV
    . "$BASH_ENV"
fi
