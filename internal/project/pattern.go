package project

import (
	"slices"
	"strings"
)

// maxPattern is the longest pattern, in bytes, that can match anything: a path has at most 4095. It also bounds what a
// hostile .gitignore can cost.
const maxPattern = 4096

// pattern is one line of a .gitignore file: gitignore(5). It matches what git's own wildmatch does, in time proportional to
// the length of the pattern times that of the path, whatever the pattern.
type pattern struct {
	negated  bool    // "!": take in again
	dirOnly  bool    // "/" at the end
	anchored bool    // a "/" elsewhere: match the whole path below the .gitignore, not just the last name
	literal  string  // what to compare with, when there is no wildcard
	suffix   bool    // compare with the end: "*" and then no other wildcard, not anchored
	tokens   []token // else
}

type tokenKind uint8

const (
	char    tokenKind = iota // c
	anyChar                  // ?: any byte but '/'
	class                    // [...]: one byte of set
	star                     // *: any number of bytes but '/'
	allStar                  // **: any number of bytes
	mayskip                  // the next two tokens ("**" and "/") may be left out
)

type token struct {
	kind tokenKind
	c    byte
	set  *[256]bool
}

// parsePatterns reads a .gitignore file. Lines that can match nothing are left out.
func parsePatterns(data string) []pattern {
	data = strings.TrimPrefix(data, "\ufeff")
	var patterns []pattern
	for line := range strings.SplitSeq(data, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if p, ok := parsePattern(trimSpaces(line)); ok {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

// trimSpaces takes spaces (not tabs) off the end, but for one after a backslash.
func trimSpaces(s string) string {
	end := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ':
			continue
		case '\\':
			i++
		}
		end = min(i+1, len(s))
	}
	return s[:end]
}

func parsePattern(s string) (p pattern, ok bool) {
	s, p.negated = strings.CutPrefix(s, "!")
	s, p.dirOnly = strings.CutSuffix(s, "/")
	p.anchored = strings.Contains(s, "/")
	s = strings.TrimPrefix(s, "/")
	if s == "" || len(s) > maxPattern {
		return p, false
	}
	switch {
	case !strings.ContainsAny(s, wild):
		p.literal = s
		return p, true
	case !p.anchored && s[0] == '*' && !strings.ContainsAny(s[1:], wild):
		p.literal, p.suffix = s[1:], true
		return p, true
	}
	p.tokens, ok = compile(s)
	return p, ok
}

// wild are the bytes that mean something in a pattern.
const wild = "*?[\\"

// compile returns false for a pattern that is not well-formed, which matches nothing.
func compile(s string) (tokens []token, ok bool) {
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case '?':
			tokens = append(tokens, token{kind: anyChar})
			i++
		case '*':
			end := i
			for end < len(s) && s[end] == '*' {
				end++
			}
			// Two and more stars cross directories only when they are a whole part of the path. What stands before the
			// first wildcard is compared by itself in git, so that "a**/b" has stars at its start and matches "ax/y/b".
			whole := end-i >= 2 && (i == strings.IndexAny(s, wild) || s[i-1] == '/') &&
				(end == len(s) || s[end] == '/' || strings.HasPrefix(s[end:], `\\/`))
			switch {
			case !whole:
				tokens = append(tokens, token{kind: star})
			case end == len(s) || s[end] == '\\':
				tokens = append(tokens, token{kind: allStar})
			default:
				tokens = append(tokens, token{kind: mayskip}, token{kind: allStar}, token{kind: char, c: '/'})
				end++
			}
			i = end
		case '[':
			set, length := compileClass(s[i:])
			if length == 0 {
				return nil, false
			}
			tokens = append(tokens, token{kind: class, set: set})
			i += length
		case '\\':
			if i++; i == len(s) {
				return nil, false
			}
			tokens = append(tokens, token{kind: char, c: s[i]})
			i++
		default:
			tokens = append(tokens, token{kind: char, c: c})
			i++
		}
	}
	return tokens, true
}

// compileClass reads a bracket expression at the start of s. Its length is 0 when it does not end.
func compileClass(s string) (set *[256]bool, length int) {
	set = new([256]bool)
	i := 1
	negated := i < len(s) && (s[i] == '!' || s[i] == '^')
	if negated {
		i++
	}
	var last byte // start of a range; 0 when there is none
	for first := true; ; first = false {
		if i >= len(s) {
			return nil, 0
		}
		c := s[i]
		switch {
		case c == ']' && !first:
			if negated {
				for b := range set {
					set[b] = !set[b]
				}
			}
			set['/'] = false
			return set, i + 1
		case c == '-' && last != 0 && i+1 < len(s) && s[i+1] != ']':
			i++
			if s[i] == '\\' {
				if i++; i == len(s) {
					return nil, 0
				}
			}
			for b := int(last); b <= int(s[i]); b++ {
				set[b] = true
			}
			last = 0
		case c == '[' && i+1 < len(s) && s[i+1] == ':':
			end := strings.IndexByte(s[i+2:], ']')
			if end < 0 {
				return nil, 0
			}
			if name, ok := strings.CutSuffix(s[i+2:i+2+end], ":"); ok && end > 0 {
				in := posixClass(name)
				if in == nil {
					return nil, 0
				}
				for b := range set {
					set[b] = set[b] || in(byte(b))
				}
				i += 2 + end
				last = 0
				break
			}
			set['['] = true // no ":]": an ordinary bracket
			last = '['
		default:
			if c == '\\' {
				if i++; i == len(s) {
					return nil, 0
				}
				c = s[i]
			}
			set[c] = true
			last = c
		}
		i++
	}
}

// posixClass returns the test of a class such as "alpha" in the C locale, or nil when there is none of that name.
func posixClass(name string) func(byte) bool {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	lower := func(c byte) bool { return 'a' <= c && c <= 'z' }
	upper := func(c byte) bool { return 'A' <= c && c <= 'Z' }
	graph := func(c byte) bool { return 0x21 <= c && c <= 0x7e }
	alnum := func(c byte) bool { return digit(c) || lower(c) || upper(c) }
	switch name {
	case "alnum":
		return alnum
	case "alpha":
		return func(c byte) bool { return lower(c) || upper(c) }
	case "blank":
		return func(c byte) bool { return c == ' ' || c == '\t' }
	case "cntrl":
		return func(c byte) bool { return c < 0x20 || c == 0x7f }
	case "digit":
		return digit
	case "graph":
		return graph
	case "lower":
		return lower
	case "print":
		return func(c byte) bool { return c == ' ' || graph(c) }
	case "punct":
		return func(c byte) bool { return graph(c) && !alnum(c) }
	case "space":
		return func(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
	case "upper":
		return upper
	case "xdigit":
		return func(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }
	}
	return nil
}

// match reports whether p matches a path below the directory of its .gitignore.
func (p *pattern) match(path string, isDir bool) bool {
	if p.dirOnly && !isDir {
		return false
	}
	if !p.anchored {
		path = path[strings.LastIndexByte(path, '/')+1:]
	}
	switch {
	case p.suffix:
		return strings.HasSuffix(path, p.literal)
	case p.tokens == nil:
		return path == p.literal
	}
	return matchTokens(p.tokens, path)
}

// matchTokens runs the tokens as a nondeterministic automaton: at[i] says that tokens[:i] match what has been read.
func matchTokens(tokens []token, path string) bool {
	at := make([]bool, len(tokens)+1)
	next := make([]bool, len(tokens)+1)
	at[0] = true
	for i := 0; ; i++ {
		// What can be passed without reading.
		for t, tok := range tokens {
			if !at[t] {
				continue
			}
			switch tok.kind {
			case star, allStar:
				at[t+1] = true
			case mayskip:
				at[t+1], at[t+3] = true, true
			}
		}
		if i == len(path) {
			return at[len(tokens)]
		}
		if !slices.Contains(at, true) {
			return false
		}
		c := path[i]
		clear(next)
		for t, tok := range tokens {
			if !at[t] {
				continue
			}
			switch tok.kind {
			case char:
				next[t+1] = next[t+1] || c == tok.c
			case anyChar:
				next[t+1] = next[t+1] || c != '/'
			case class:
				next[t+1] = next[t+1] || tok.set[c]
			case star:
				next[t] = next[t] || c != '/'
			case allStar:
				next[t] = true
			}
		}
		at, next = next, at
	}
}
