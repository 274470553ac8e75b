#!/usr/bin/env bash
# A sudo that changes no user: it runs its command as you, with the vendor's folder replaced by NPUKIT_AIC_ROOT.
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    -u | -g | -p | -C | -D | -h | -r | -t | -T | -U) shift 2 ;;
    -*) shift ;;
    *=*) export "$1"; shift ;;
    *) break ;;
    esac
done
exec "${@//\/opt\/qti-aic/$NPUKIT_AIC_ROOT}"
