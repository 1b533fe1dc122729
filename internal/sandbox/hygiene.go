package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// Hygiene says whether a sandbox has for its own what two of them must not have in common, as it was found at its last start.
type Hygiene struct {
	// From is what the microVM goes on from: FromBoot and the like.
	From  string        `json:"from"`
	At    time.Time     `json:"at"`
	Items []HygieneItem `json:"items"`
}

// What a microVM goes on from.
const (
	FromBoot     = "boot"
	FromTemplate = "template"
	FromPool     = "pool"     // a microVM that was started before, for whoever needs one
	FromSnapshot = "snapshot" // of another sandbox; also a fork
	FromItself   = "itself"   // after a pause, a suspend or a snapshot
)

// HygieneItem is one thing of a Hygiene. Texts that are the guest's are printable.
type HygieneItem struct {
	Name   string        `json:"name"`
	Result HygieneResult `json:"result"`
	Reason string        `json:"reason,omitempty"`
}

// HygieneResult is how it is with a HygieneItem.
type HygieneResult string

// The results.
const (
	HygienePass HygieneResult = "pass"
	HygieneFail HygieneResult = "fail"
	HygieneNone HygieneResult = "none" // there is no such thing in this sandbox
)

// Failed reports whether an item has failed.
func (h *Hygiene) Failed() bool {
	for _, i := range h.Items {
		if i.Result == HygieneFail {
			return true
		}
	}
	return false
}

// After is h of a sandbox of which old was known: one that goes on as itself keeps what it does not say anew.
func (h *Hygiene) After(old *Hygiene) *Hygiene {
	if h == nil || old == nil || h.From != FromItself {
		return h
	}
	for _, item := range old.Items {
		if !slices.ContainsFunc(h.Items, func(i HygieneItem) bool { return i.Name == item.Name }) {
			h.Items = append(h.Items, item)
		}
	}
	return h
}

// MachineID is the machine-id(5) of the sandbox with this id, in all of its starts: 32 hexadecimal digits.
func MachineID(id string) string {
	sum := sha256.Sum256([]byte("agentkernel machine-id " + id))
	return hex.EncodeToString(sum[:16])
}
