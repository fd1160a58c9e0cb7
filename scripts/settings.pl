# settings.pl DOCUMENT: prints the document with its table of settings replaced by one that is made from the output of
# `--help` on standard input. scripts/check-configuration calls it.
use strict;
use warnings;

my ($program, $heading, $setting, @settings, %known);

# A setting is an option with an environment variable. Programs that have it alike share its row.
sub finish {
    return unless $setting && $setting->{text} =~ s/\[env: (\w+)[^\]]*\]//;
    $setting->{name} = $1;
    my $default = $setting->{text} =~ s/\[default: (.*?)\]// ? $1 : $setting->{switch} ? 'false' : undef;
    $default =~ s/\s+//g if defined $default && $default =~ /,/; # a list may begin on its own line
    $setting->{text} =~ s/\[possible values: (.*?)\]/; one of $1/ unless $setting->{switch};
    $setting->{text} =~ s/\s+(;?) ?/$1 /g;
    $setting->{text} =~ s/^\s+|\s+$//g;
    my $key = join "\0", $setting->{name}, $default // '', $setting->{text};
    if (!$known{$key}) {
        push @settings, $known{$key} = { %$setting, heading => $heading, default => $default, programs => [] };
    }
    my $programs = $known{$key}{programs};
    push @$programs, $program unless grep { $_ eq $program } @$programs;
}

while (my $line = <STDIN>) {
    chomp $line;
    if ($line =~ /^COMMAND (.*)/) {
        finish();
        ($program, $setting) = ($1, undef);
    } elsif ($line =~ /^(\S.*):$/) {
        finish();
        ($heading, $setting) = ($1, undef);
    } elsif ($line =~ /^\s+(?:-\w, )?--[\w-]+( <\S+>)?(.*)$/) {
        finish();
        $setting = { switch => !$1, text => $2 };
    }
}
finish();

my $tables = '';
my %seen;
for my $heading (grep { !$seen{$_}++ } map { $_->{heading} } @settings) {
    $tables .= "\n## $heading\n\n| variable | programs | default | meaning |\n|---|---|---|---|\n";
    for my $row (grep { $_->{heading} eq $heading } @settings) {
        my $default = defined $row->{default} ? "`$row->{default}`" : '–';
        my $meaning = $row->{text} =~ s/\|/\\|/gr;
        my $programs = join ', ', @{ $row->{programs} };
        $tables .= "| `$row->{name}` | $programs | $default | $meaning |\n";
    }
}

local $/;
open my $file, '<', $ARGV[0] or die "$ARGV[0]: $!\n";
my $document = <$file>;
$document =~ s/(<!-- The rest of this file is written by .* -->\n).*/$1$tables/s or die "$ARGV[0] has no place for the tables\n";
print $document;
