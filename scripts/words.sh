#!/bin/sh
# Looks for words that docs/glossary.md has a better one for, in the sources and the documentation.
#
# A line that has to keep such a word (a quotation, the text of another program) says so with "words: keep".
set -eu
cd "$(dirname "$0")/.."

# One pattern a line: the word, and after the tab what to write instead.
words='(?i)\b(some|no|every)body(.s)?\b	who acts: the operator, the plugin, another program, no pod
(?i)\bwhoever\b	who acts
\bgiv(e|es|en|ing) ([\w{}-]+ ){0,6}back\b	release (an address, a block), remove or delete (an ENI)
\bcomes? to rest\b	converges
\bat rest\b	once converged
\b(is|are) told\b	gets, reads, is asked
\bstrangers?\b	another program
\bin doubt\b	unconfirmed
\bunknown owner\b	untracked owner
\bresting\b	cooling, in cooldown
\bthe peer\b	amazon-vpc-cni-k8s
\b(DoubtCause|Whence|Introduce|PeerNat|Culprit|Remark)\b	see docs/glossary.md'

found=0
old_ifs=$IFS
IFS='
'
for line in $words; do
    pattern=${line%%	*}
    instead=${line#*	}
    hits=$(git grep -nP "$pattern" -- '*.rs' '*.md' ':!vpc-ipam-*/tests/stored' ':!CHANGELOG.md' | grep -v 'words: keep' || true)
    if [ -n "$hits" ]; then
        found=1
        printf '%s\n' "$hits" | sed "s|^|words: |; s|\$|    (instead: $instead)|" | cut -c1-200
    fi
done
IFS=$old_ifs
if [ "$found" = 1 ]; then
    echo 'words: write the lines above in the words of docs/glossary.md, or end them with a comment "words: keep"' >&2
    exit 1
fi
