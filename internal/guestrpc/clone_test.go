package guestrpc

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// cloning is a guest that is resumed. answer gets how many times it was before.
type cloning struct {
	guest
	calls  []*guestv1.ResumeRequest
	answer func(n int, req *guestv1.ResumeRequest) *guestv1.ResumeResponse
}

func (g *cloning) Prepare(context.Context, *guestv1.PrepareRequest) (*guestv1.PrepareResponse, error) {
	return &guestv1.PrepareResponse{}, nil
}

func (g *cloning) Resume(_ context.Context, req *guestv1.ResumeRequest) (*guestv1.ResumeResponse, error) {
	g.calls = append(g.calls, req)
	return g.answer(len(g.calls)-1, req), nil
}

func pass(name, reason string) *guestv1.HygieneItem {
	return &guestv1.HygieneItem{Name: name, Result: guestv1.HygieneItem_PASS, Reason: reason}
}

// now is the answer of a guest whose clock is right.
func now(items ...*guestv1.HygieneItem) *guestv1.ResumeResponse {
	return &guestv1.ResumeResponse{Items: items, Clock: &guestv1.Clock{UnixNano: time.Now().UnixNano()}}
}

func TestResume(t *testing.T) {
	g := &cloning{answer: func(int, *guestv1.ResumeRequest) *guestv1.ResumeResponse {
		return now(pass("clock", ""), pass("entropy", "new"))
	}}
	c := connect(t, g)
	if err := c.Prepare(t.Context(), time.Second, true); err != nil {
		t.Error(err)
	}
	spec := ResumeSpec{Kind: ResumeTemplate, Identity: Identity{Hostname: "h", MachineID: "m"}, Disks: []sandbox.GuestDisk{
		{Disk: sandbox.Disk{Role: sandbox.Upper, FS: "ext4"}, SizeBytes: 7},
		{Disk: sandbox.Disk{Role: "volume0", FS: "ext4", ReadOnly: true, MountPoint: "/a b"}, Device: "vdc", Rebind: true},
	}}
	items, err := c.Resume(t.Context(), spec)
	if err != nil || len(items) != 2 || items[0].Result != sandbox.HygienePass || !strings.Contains(items[0].Reason, "ms off") || items[1] != (sandbox.HygieneItem{Name: "entropy", Result: "pass", Reason: "new"}) {
		t.Errorf("%+v, %v", items, err)
	}
	req := g.calls[0]
	if len(req.GetEntropy()) != 64 || req.GetHostname() != "h" || req.GetMachineId() != "m" || fmt.Sprint(req.GetDisks()) != fmt.Sprint([]*guestv1.ResumeDisk{
		{Disk: "upper:ext4:rw", Bytes: 7}, {Disk: "volume0:ext4:ro:vdc:/a%20b", Rebind: true},
	}) {
		t.Errorf("%v", req)
	}
	g.calls = nil
	// A clock that is off is set again, and is told to be off when that does not help.
	g.answer = func(n int, _ *guestv1.ResumeRequest) *guestv1.ResumeResponse {
		r := now(pass("entropy", fmt.Sprint(n)))
		r.Clock.UnixNano -= int64(time.Hour)
		return r
	}
	items, err = c.Resume(t.Context(), ResumeSpec{Kind: ResumeCopy})
	if err != nil || len(g.calls) != 1+clockTries || g.calls[1].GetKind() != guestv1.ResumeRequest_ORIGINAL || len(items) != 2 ||
		items[0].Reason != "0" || items[1].Result != sandbox.HygieneFail || string(g.calls[0].GetEntropy()) == string(g.calls[1].GetEntropy()) {
		t.Errorf("%+v, %v, %d calls", items, err, len(g.calls))
	}
	for name, change := range map[string]func(*guestv1.ResumeResponse){
		"many items":    func(r *guestv1.ResumeResponse) { r.Items = make([]*guestv1.HygieneItem, maxItems+1) },
		"no name":       func(r *guestv1.ResumeResponse) { r.Items[0].Name = "" },
		"escape":        func(r *guestv1.ResumeResponse) { r.Items[0].Name = "\x1b[2J" },
		"long reason":   func(r *guestv1.ResumeResponse) { r.Items[0].Reason = strings.Repeat("x", 257) },
		"no result":     func(r *guestv1.ResumeResponse) { r.Items[0].Result = 0 },
		"other result":  func(r *guestv1.ResumeResponse) { r.Items[0].Result = 77 },
		"large message": func(r *guestv1.ResumeResponse) { r.Items[0].Reason = strings.Repeat("x", 1<<20) },
	} {
		g.answer = func(int, *guestv1.ResumeRequest) *guestv1.ResumeResponse {
			r := now(pass("entropy", ""))
			change(r)
			return r
		}
		if items, err := connect(t, g).Resume(t.Context(), spec); err == nil {
			t.Errorf("%s: %+v", name, items)
		}
	}
	// A reason is shown to people, and a clock that cannot be is told.
	g.answer = func(int, *guestv1.ResumeRequest) *guestv1.ResumeResponse {
		r := now(pass("entropy", "\x1b]0;x"))
		r.Clock.TookNs = int64(time.Hour)
		return r
	}
	items, err = connect(t, g).Resume(t.Context(), spec)
	if err != nil || items[0].Reason != "?]0;x" || items[1].Result != sandbox.HygieneFail || !strings.Contains(items[1].Reason, "measured") {
		t.Errorf("%+v, %v", items, err)
	}
}
