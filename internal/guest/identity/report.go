// Package identity makes a microVM one of its own: its clock, its random numbers, and the names that two of them must not share.
package identity

import (
	"strings"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// maxReason bounds a reason, in bytes: the host takes 256.
const maxReason = 240

// Report collects what was done, and what could not be.
type Report struct{ Items []*guestv1.HygieneItem }

// Pass adds an item that holds, or that does not when err is set.
func (r *Report) Pass(name, reason string, err error) {
	result := guestv1.HygieneItem_PASS
	if err != nil {
		result, reason = guestv1.HygieneItem_FAIL, err.Error()
	}
	r.add(name, result, reason)
}

// None adds an item that there is nothing of.
func (r *Report) None(name, reason string) { r.add(name, guestv1.HygieneItem_NONE, reason) }

func (r *Report) add(name string, result guestv1.HygieneItem_Result, reason string) {
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
	r.Items = append(r.Items, &guestv1.HygieneItem{Name: name, Result: result, Reason: reason})
}
