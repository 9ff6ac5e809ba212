"""Whether a new version of a model is as good as the stable one. Pure: counts come in, verdicts go out, with reasons.

window      what one arm did in one window, added up; sidecars make them, the control plane adds them
analysis    the settings: thresholds in Flagger's words, sample sizes, effect sizes, ceilings, fast kill
odds, quantiles, shares, distributions
            sequential tests: each adds windows and says at any time how strong its evidence is
judge       the evidence of a whole rollout -> pass, fail, or insufficient data
thresholds  the same by fixed limits, window for window
fast_kill   a burst of failures, seen call by call; runs in the sidecar
drift       has a version changed that nobody has rolled out: errors and times against the last hours and yesterday
"""
