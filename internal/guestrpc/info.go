package guestrpc

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Info is what a guest said of itself, checked for its form.
type Info struct {
	Protocol      uint32
	Build         string // of the guest agent
	Capabilities  []string
	KernelRelease string        // uname -r
	Arch          string        // uname -m
	Init          time.Duration // from the start of the guest's kernel to that of its agent
	Ready         time.Duration // from the start of the guest's kernel to the agent listening
	Awaits        Awaits
	// Hygiene is empty when it waits for something.
	Hygiene []sandbox.HygieneItem
}

// Limits of what a guest may say of itself.
const (
	maxText         = 256 // bytes
	maxCapabilities = 64
	maxUptime       = 10 * 365 * 24 * time.Hour
)

func checkHello(r *guestv1.HelloResponse) (Info, error) {
	info := Info{
		Protocol: r.GetProtocol(), Build: r.GetAgentBuild(), Capabilities: r.GetCapabilities(), KernelRelease: r.GetKernelRelease(),
		Arch: r.GetArch(), Init: time.Duration(r.GetInitNs()), Ready: time.Duration(r.GetReadyNs()),
	}
	if info.Protocol != Protocol {
		return Info{}, fmt.Errorf("the guest agent speaks version %d of the protocol, and this build speaks %d", info.Protocol, Protocol)
	}
	if len(info.Capabilities) > maxCapabilities {
		return Info{}, fmt.Errorf("the guest agent names %d capabilities, more than the %d allowed", len(info.Capabilities), maxCapabilities)
	}
	for _, f := range append([]string{info.Build, info.KernelRelease, info.Arch}, info.Capabilities...) {
		if err := checkText(f); err != nil {
			return Info{}, fmt.Errorf("the guest agent says of itself a text %w", err)
		}
	}
	if info.Init < 0 || info.Ready < info.Init || info.Ready > maxUptime {
		return Info{}, fmt.Errorf("the guest agent says that it began at %d ns and was ready at %d ns, which cannot be", r.GetInitNs(), r.GetReadyNs())
	}
	var err error
	if info.Awaits, err = checkAwaits(r); err != nil || info.Awaits != AwaitsNothing {
		return info, err
	}
	if info.Hygiene, err = checkItems(r.GetItems()); err != nil {
		return Info{}, err
	}
	return info, nil
}

func checkText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("of %d bytes, more than the %d allowed", len(s), maxText)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("that is not printable: %q", s)
	}
	return nil
}

// clean makes a text of the guest fit to be shown: of bounded length, and with nothing in it that a terminal would obey.
func clean(s string) string {
	const limit = 1024
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
