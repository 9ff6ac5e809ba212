// Figures for people, as meshproxy/web/text.py writes them on the server.
"use strict";

const text = {
  none: "–",
  rate(value) {
    if (!value) return "0";
    if (value >= 100) return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",");
    return value >= 0.1 ? value.toFixed(1) : String(Number(value.toPrecision(2)));
  },
  percent(value) {
    if (value === null) return text.none;
    const digits = (100 * value).toFixed(2);
    return `${digits === "100.00" && value < 1 ? "99.99" : String(Number(digits))} %`;
  },
  seconds(value) {
    if (value === null) return text.none;
    if (value >= 1) return `${value.toFixed(2)} s`;
    return value >= 1e-3 ? `${(1e3 * value).toFixed(1)} ms` : `${(1e6 * value).toFixed(0)} µs`;
  },
  secured(share) {
    if (share === null) return ["plain", text.none];
    if (share === 1) return ["locked", "mTLS"];
    return ["open", share === 0 ? "no mTLS" : `${text.percent(share)} mTLS`];
  },
  // A SPIFFE id of the usual form as NAMESPACE/ACCOUNT: the table has it whole.
  short(name) {
    const parts = /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\/([^/ ]+)(.*)$/.exec(name);
    return parts ? `${parts[1]}/${parts[2]}${parts[3]}` : name;
  },
};
